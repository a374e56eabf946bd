"""Find settings of gunicorn that cannot work or have no effect with this worker class, before a worker is forked."""

from __future__ import annotations

from typing import Any, Final

from .patching import is_patched

__all__ = ["check_configuration"]

_PRELOADED: Final = (
    "preload_app: True is not allowed with this worker class, as the application would be imported before "
    "monkey-patching; leave it out, or let the configuration file begin with "
    "`from gevent import monkey; monkey.patch_all()`"
)
_PROTOCOL: Final = "protocol: {!r} is not allowed with this worker class; it must be 'http'"
_NO_EFFECT: Final = "%s=%r has no effect with intralb_gevent.gunicorn.Worker, which uses its own HTTP server"
_NO_HTTP2: Final = "http_protocols: h2 is not supported by intralb_gevent.gunicorn.Worker; clients are offered http/1.1"

_OF_HTTP: Final = (
    *("permit_obsolete_folding", "strip_header_spaces", "permit_unconventional_http_method"),
    *("permit_unconventional_http_version", "casefold_http_method", "tolerate_dangerous_framing"),
    *("forwarder_headers", "header_map", "sendfile"),
)
"""Settings of gunicorn's own HTTP code; some of these settings exist only in certain versions of gunicorn."""


def check_configuration(cfg: Any, log: Any) -> None:
    """Raise RuntimeError for settings that cannot work, and log a warning for each setting that has no effect."""
    if cfg.preload_app and not is_patched():
        raise RuntimeError(_PRELOADED)
    protocol = _value(cfg, "protocol", "http")
    if protocol != "http":
        raise RuntimeError(_PROTOCOL.format(protocol))
    if "h2" in _value(cfg, "http_protocols", ()) or _value(cfg, "http2_cleartext", "off") != "off":
        log.warning(_NO_HTTP2)
    for name in _OF_HTTP:
        if _is_changed(cfg, name):
            log.warning(_NO_EFFECT, name, cfg.settings[name].get())


def _value(cfg: Any, name: str, otherwise: Any) -> Any:
    """Return the value of a setting, or `otherwise` if this version of gunicorn does not have the setting."""
    return cfg.settings[name].get() if name in cfg.settings else otherwise


def _is_changed(cfg: Any, name: str) -> bool:
    setting = cfg.settings.get(name)
    return setting is not None and setting.get() != type(setting)().get()
