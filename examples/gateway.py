"""Run a gateway: independent services, mounted by path in one process, behind one balancer.

The users service is a Bottle application, and the products service is plain WSGI. Each service receives its mount path
in SCRIPT_NAME, and the path below it in PATH_INFO, so the service's links are correct wherever it is mounted.

python examples/gateway.py
curl http://127.0.0.1:8080/users
curl http://127.0.0.1:8080/users/2
curl http://127.0.0.1:8080/products/tea
"""

# ruff: noqa: E402 - gevent must patch before other imports
from gevent import monkey

monkey.patch_all()

import argparse
from wsgiref.util import shift_path_info

from bottle import Bottle, abort

from intralb_gevent import LoadBalancer, Options, WSGIServer, graceful_shutdown

users = Bottle()
names = {1: "Ada", 2: "Grace"}


@users.get("/")
def list_users():
    return {"users": [users.get_url("user", number=number) for number in names]}


@users.get("/<number:int>", name="user")
def show_user(number):
    return {"name": names.get(number) or abort(404, f"There is no user {number}.")}


prices = {"tea": 3, "coffee": 4}


def products(environ, start_response):
    mount, name = environ["SCRIPT_NAME"], shift_path_info(environ)
    if not name:
        return answer(start_response, "200 OK", "\n".join(f"{mount}/{product}" for product in prices))
    if name not in prices:
        return answer(start_response, "404 Not Found", f"There is no product {name}.")
    return answer(start_response, "200 OK", f"{name} costs {prices[name]}.")


def answer(start_response, status, text):
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode(), b"\n"]


mounts = {"users": users, "products": products}


def gateway(environ, start_response):
    service = mounts.get(shift_path_info(environ))
    if service is None:
        return answer(start_response, "404 Not Found", f"Mounted here: {', '.join(mounts)}.")
    return service(environ, start_response)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="127.0.0.1:8080", metavar="HOST:PORT")
    options = Options(max_concurrent_per_router=20, max_workers=6)
    server = WSGIServer(parser.parse_args().bind, LoadBalancer(gateway, options))
    graceful_shutdown(server)
    server.start()
    print(f"listening on http://{server.server_host}:{server.server_port}", flush=True)
    server.serve_forever()
