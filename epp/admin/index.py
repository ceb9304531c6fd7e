"""The index page: what there is to see. Self-contained, since the port may be all that can be reached."""

INDEX = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Endpoint picker</title>
<style>
body { font: 16px/1.6 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem }
dt { margin-top: .6rem }
</style>
<h1>Endpoint picker</h1>
<dl>
<dt><a href="decisions">decisions</a>
<dd>The latest decisions and why; <code>?limit=</code>, <code>?model=</code>, <code>?endpoint=</code>
<dt>decisions/<i>request id</i><dd>One decision in full
<dt><a href="pool">pool</a><dd>The endpoints and what is known of them
<dt><a href="strategies">strategies</a><dd>Health and size of the prefix strategies
<dt><a href="config">config</a><dd>The configuration in force, defaults included; its status, and those before
<dt>config/diff<dd>What changed; <code>?from=1&amp;to=2</code>
<dt><a href="metrics">metrics</a><dd>For Prometheus
<dt><a href="healthz">healthz</a>, <a href="readyz">readyz</a><dd>Alive, and ready for requests
</dl>
</html>
"""
