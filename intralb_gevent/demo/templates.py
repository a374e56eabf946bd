"""The HTML templates of the pages, with a `{name}` for each value; `markup.fill` inserts the values."""

from __future__ import annotations

BEGINNING = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · IntraLB demo</title>
<link rel="icon" type="image/svg+xml" href="{root}/static/icon.svg">
<link rel="stylesheet" href="{root}/static/style.css">
</head>
<body>
<header>
<a class="brand" href="{root}/"><img src="{root}/static/icon.svg" alt="" width="26" height="26">IntraLB</a>
<nav>{links}</nav>
</header>
<main>
<h1>{title}</h1>
<p class="lede">{lede}</p>
"""
END = """
</main>
<footer>{strip}</footer>
</body>
</html>
"""
FACT = """<span>{fact}</span>"""
LINK = """<a href="{root}{path}">{name}</a>"""
LINK_HERE = """<a href="{root}{path}" aria-current="page">{name}</a>"""

PANEL = """<section class="panel" aria-label="How this request was served">
<h2><i class="pulse"></i>This very request</h2>
<dl class="tiles">{tiles}</dl>
<p class="aside">{aside} <a href="{root}/">Ask again</a></p>
</section>
"""
TILE = """<div><dt>{name}</dt><dd>{value}</dd><dd class="hint">{hint}</dd></div>
"""
CARDS = """<h2>Try it</h2>
<ul class="cards">
{cards}</ul>"""
CARD = """<li><a href="{root}{path}"><strong>{name}</strong><code>{shown}</code></a><p>{sentence}</p></li>
"""

NOTES = """<form class="search" method="get" action="{root}/notes" role="search">
<input type="search" name="q" value="{search}" maxlength="{search_length}"
 placeholder="Search the notes" aria-label="Search the notes">
<button>Search</button>
</form>
<form class="write" method="post" action="{root}/notes">
<label for="text">New note</label>
<textarea id="text" name="text" rows="3" maxlength="{text_length}" required></textarea>
<div class="row">
<input name="author" maxlength="{author_length}" autocomplete="name"
 placeholder="Your name" aria-label="Your name">
<button class="primary">Write it</button>
</div>
</form>
<p class="aside">{summary}</p>
<ol class="notes">
{items}</ol>"""
NOTE = """<li><p>{text}</p>
<footer><b>{author}</b> <time datetime="{exact}" title="{exact}">{ago}</time> \
<a href="{root}/notes/{id}">#{id}</a></footer></li>
"""
NOTE_ALONE = """<ol class="notes">
{item}</ol>
<p><a href="{root}/notes">All notes</a></p>"""

FIGURES = """<p class="figures">{figures}</p>
"""
FIGURE = """<span><b>{value}</b> {name}</span>"""
SLOW = """{figures}
<form class="row" method="get" action="{root}/slow">
<label for="seconds">Sleep for</label>
<input id="seconds" name="seconds" type="number" min="0" max="{longest}" step="any" value="{again}">
<span>seconds</span>
<button class="primary">Go</button>
</form>
<p class="aside">{advice}</p>"""

STREAM_BEGINNING = """<ol class="stream">
"""
STREAM_LINE = """<li><b>{number}</b>
<progress max="{lines}" value="{number}"></progress><span>{elapsed}</span></li>
"""
STREAM_END = """</ol>
<p class="aside">{sentence} <a href="{root}/stream?lines={more}">Once more, with {more} lines</a></p>"""

RUSH = """<h2>Send a rush</h2>
<p>For {seconds} seconds, the server gets more requests than it can serve. The pool grows, the queue fills, and further
requests are rejected within milliseconds. This page stays quick during the rush.{live}</p>
<form method="post" action="{root}/rush"><button class="primary">Send a rush</button></form>
<p class="aside">{progress} <a href="{root}/status">Look again</a></p>
"""
LIVE = """ Watch it on the <a href="{address}" target="_blank" rel="noreferrer">status page of the server</a>."""
STATUS = """{figures}
{rush}
<h2>Pages</h2>
{pages}
<h2>Workers</h2>
{workers}"""
PAGES = """<table>
<thead><tr><th>Page</th><th>Answered</th><th>Running</th><th class="bar"></th></tr></thead>
<tbody>
{rows}</tbody>
</table>"""
PAGE = """<tr><th scope="row">{name}</th><td>{ended}</td><td>{running}</td>
<td class="bar"><progress max="{most}" value="{ended}"></progress></td></tr>
"""
WORKERS = """<table>
<thead><tr><th>Worker</th><th>Requests</th><th class="bar"></th></tr></thead>
<tbody>
{rows}</tbody>
</table>"""
WORKER = """<tr><th scope="row">worker {name}</th><td>{begun}</td>
<td class="bar"><progress max="{most}" value="{begun}"></progress></td></tr>
"""
NO_WORKERS = """<p class="aside">No request has come through a balancer.</p>"""

ERROR = """<p><a href="{root}/">To the first page</a></p>"""
