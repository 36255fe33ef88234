"""What is wrong with a file is said all at once, each with its place and what would be right."""

from pathlib import Path
from textwrap import dedent

import pytest

from gateway.config import ConfigProblems, load

from .support import ENVIRON, KINDS, ROUTE, SECRET, loaded, problems

UNIT = "(none switches a limit off)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("listen: 8080", "2:9: listen: an address is written 127.0.0.1:8080, '[::1]:8080' or unix:/path; found 8080", id="listen"),
        pytest.param("listen: '[::1]:1'\nadmin: '[0::1]:1'", "3:8: admin: this is the address of listen; the admin listener needs its own", id="one address for both"),
        pytest.param("workers: yes", "2:10: workers: this is a whole number from 1 up, or auto for one per core; found 'yes'", id="workers"),
        pytest.param("workers: 0", "2:10: workers: this is a whole number from 1 up, or auto for one per core; found 0", id="no workers"),
        pytest.param("worker: 2", "2:1: worker: unknown key; did you mean 'workers'?", id="unknown key"),
        pytest.param(
            "zzz: 2",
            "2:1: zzz: unknown key; known here: admin, callers, credentials, listen, process, routes, tls, workers",
            id="unknown key, nothing close",
        ),
        pytest.param("process: 3", "2:10: process: this is a mapping (key: value); found 3", id="not a mapping"),
        pytest.param("process:", f"2:9: process: this has no value; write one, or leave the key out {UNIT}", id="no value"),
        pytest.param("process: {head: 10}", "2:17: process.head: a duration needs its unit, as in 40s; found 10", id="duration"),
        pytest.param("process: {head: 1:30}", "2:17: process.head: a duration is written as 40s, 1m30s, 500ms, 2h or 1d; found '1:30'", id="base 60"),
        pytest.param("process: {head: 0s}", "2:17: process.head: a limit of 0 would let nothing through; none switches it off", id="zero"),
        pytest.param("process: {head_bytes: 64}", "2:23: process.head_bytes: a size needs its unit, as in 12MiB; found 64", id="size"),
        pytest.param("process: {in_flight: 012}", "2:22: process.in_flight: this is a whole number from 1 up, or none for no limit", id="octal"),
        pytest.param("process: {in_flight: true}", "2:22: process.in_flight: this is a whole number from 1 up, or none for no limit", id="true as a number"),
        pytest.param("process: {drain: 45s, drain: 50s}", "2:23: process.drain: this key stands here twice, first in line 2", id="duplicate"),
        pytest.param("tls: {key: k}", "2:6: tls.certificate: this key is missing: PEM file: certificate and its chain", id="half of tls"),
        pytest.param("tls: {certificate: c, key: k}", "2:6: tls: file {folder}/c cannot be read: No such file or directory", id="tls file"),
        pytest.param("tls: {certificate: c, key: k, client_ca: x}", "2:42: tls.client_ca: file {folder}/x cannot be read: No such file or directory", id="client_ca"),
        pytest.param("credentials: []", "2:14: credentials: this is a mapping (key: value); found a list", id="credentials as a list"),
        pytest.param(
            "credentials: {a b: {kind: none}}",
            "2:15: credentials.a b: a name has 1 to 63 letters, digits, '.', '_' or '-', and begins with a letter or digit",
            id="credential name",
        ),
        pytest.param("credentials: {a: }", f"2:17: credentials.a: this has no value; write one, or leave the key out {UNIT}", id="empty credential"),
        pytest.param(f"credentials: {{a: {SECRET}}}", "2:18: credentials.a: this is a mapping with its kind: app_code, app_signature, iam_token, none", id="credential as text"),
        pytest.param("credentials: {a: {x: 1}}", "2:18: credentials.a.kind: this key is missing: one of app_code, app_signature, iam_token, none", id="no kind"),
        pytest.param("credentials: {a: {kind: app-code}}", "2:25: credentials.a.kind: unknown kind of credential; did you mean 'app_code'?", id="unknown kind"),
        pytest.param("credentials: {a: {kind: [x]}}", "2:25: credentials.a.kind: unknown kind of credential; known kinds: app_code, app_signature, iam_token, none", id="kind as a list"),
        pytest.param("credentials: {a: {kind: none, x: 1}}", "2:31: credentials.a.x: unknown key; known here: kind", id="none with fields"),
        pytest.param(
            f"credentials: {{a: {{kind: app_code, app_code: {SECRET}}}}}",
            "2:45: credentials.a.app_code: a secret comes from {{env: NAME}} or {{file: PATH}}, not from this file",
            id="secret in the file",
        ),
        pytest.param(
            "credentials: {a: {kind: app_code, app_code: {env: NO_SUCH}}}",
            "2:45: credentials.a.app_code: environment variable NO_SUCH is not set; set it, or take the secret from {{file: PATH}}",
            id="secret not set",
        ),
        pytest.param(
            "credentials: {a: {kind: app_code, app_code: {file: none}}}",
            "2:45: credentials.a.app_code: file {folder}/none cannot be read: No such file or directory",
            id="secret file missing",
        ),
        pytest.param(
            "credentials: {a: {kind: app_code, app_code: {env: APP_CODE, file: x}}}",
            "2:45: credentials.a.app_code: a secret is written {{env: NAME}} or {{file: PATH}}, with one of the two and nothing else",
            id="secret from both",
        ),
        pytest.param(
            "credentials: {a: {kind: app_code, app_code: {env:APP_CODE}}}",
            "2:45: credentials.a.app_code: a secret is written {{env: NAME}} or {{file: PATH}}, with a space after the colon",
            id="no space after the colon",
        ),
        pytest.param("credentials: {a: {kind: app_code, app_code: }}", f"2:44: credentials.a.app_code: this has no value; write one, or leave the key out {UNIT}", id="secret left empty"),
        pytest.param("credentials: {a: {kind: app_code}}", "2:18: credentials.a.app_code: this key is missing", id="secret missing"),
        pytest.param(
            "credentials: {a: {kind: app_signature, app_key: {env: APP_CODE}, payload: hashed}}",
            "2:75: credentials.a.payload: this is 'auto' or 'hash'",
            id="choice",
        ),
        pytest.param(
            "credentials: {a: {kind: iam_token, user: 12, password: {env: APP_CODE}}}",
            "2:42: credentials.a.user: this is text; found 12, which needs quotes to be text",
            id="number for text",
        ),
        pytest.param(
            "credentials: {a: {kind: iam_token, user: u, password: {env: APP_CODE}, timeout: 10}}",
            "2:81: credentials.a.timeout: a duration needs its unit, as in 40s; found 10",
            id="credential's duration",
        ),
        pytest.param(
            "credentials: {none: {kind: app_code, app_code: {env: APP_CODE}}}",
            "2:15: credentials.none: a route's 'credential: none' means no credential; give this one another name",
            id="a credential called none",
        ),
        pytest.param(
            "credentials: {a: {kind: iam_token, user: u, password: {env: APP_CODE}, connection: {proxy: p}}}",
            "2:92: credentials.a.connection.proxy: a proxy is written http://host:port",
            id="credential's connection",
        ),
        pytest.param("callers: []", "2:10: callers: this list is empty; name a caller, or leave the key out to let everybody in", id="no callers"),
        pytest.param("callers:", f"2:9: callers: this has no value; write one, or leave the key out {UNIT}", id="callers without a value"),
        pytest.param("callers: [{name: a, routes: [poetry]}]", "2:11: callers.0: nothing identifies this caller; give it a token, a certificate or addresses", id="unknowable caller"),
        pytest.param("callers: [{name: a, addresses: [10.0.0.1/8], routes: [poetry]}]", "2:33: callers.0.addresses.0: bits are set behind the network's prefix; write 10.0.0.0/8", id="network"),
        pytest.param("callers: [{name: a, addresses: [h], routes: [poetry]}]", "2:33: callers.0.addresses.0: this is an IP address or network, as 10.0.0.0/8", id="not a network"),
        pytest.param("callers: [{name: a, addresses: [10.0.0.1], routes: [poetri]}]", "2:53: callers.0.routes.0: no route has this name; did you mean 'poetry'?", id="unknown route"),
        pytest.param("callers: [{name: a, addresses: [10.0.0.1], routes: []}]", "2:52: callers.0.routes: this list is empty; name at least one, or leave the key out", id="no routes"),
        pytest.param("callers: [{name: a, addresses: [10.0.0.1], routes: poetry}]", "2:52: callers.0.routes: this is a list, as in [a, b]; found text", id="routes as text"),
        pytest.param("callers: [{name: a, addresses: [10.0.0.1], routes: ['*', poetry]}]", "2:11: callers.0: routes '*' stands alone; it names every route already", id="star and more"),
        pytest.param("callers: [{name: a, addresses: [10.0.0.1], routes: ['*'], rate: 5}]", "2:65: callers.0.rate: a rate is written as 50/s, 600/m or 50/s burst 100; found 5", id="rate"),
        pytest.param("callers: [{name: a, addresses: [10.0.0.1], routes: ['*'], rate: 5/s, limits: {rate: 5/s}}]", "2:11: callers.0: rate stands here and under limits; write it once", id="rate twice"),
        pytest.param("callers: [{name: a, certificate: c, routes: ['*']}]", "2:34: callers.0.certificate: callers are asked for a certificate only with tls.client_ca; set it", id="certificate without client_ca"),
        pytest.param(f"callers: [{{name: a, token: {SECRET}, routes: ['*']}}]", "2:28: callers.0.token: a secret comes from {{env: NAME}} or {{file: PATH}}, not from this file", id="token in the file"),
        pytest.param(
            "callers: [{name: a, token: {env: APP_CODE}, routes: ['*']}, {name: b, token: {env: APP_CODE}, routes: ['*']}]",
            "2:78: callers.1.token: caller 'a' has the same token; each needs its own",
            id="same token",
        ),
        pytest.param(
            "callers: [{name: a, addresses: [10.0.0.1], routes: ['*']}, {name: a, addresses: [10.0.0.2], routes: ['*']}]",
            "2:67: callers.1.name: another caller has this name, in line 2; names are unique",
            id="same caller name",
        ),
    ],
)  # fmt: skip
def test_outside_routes(tmp_path: Path, text: str, expected: str) -> None:
    """One thing that is wrong is one problem, at its value, or its key if that is what is wrong."""
    found = problems(tmp_path, f"\n{text}\n{ROUTE}")

    assert len(found) == 1
    assert found[0].startswith(expected.format(folder=tmp_path))
    assert SECRET not in found[0]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param("name: ^'-'", "name: a name has 1 to 63", id="the name of no route"),
        pytest.param("name: ^12", "name: a name has 1 to 63", id="a number as name"),
        pytest.param("path: ^poetry", "path: a path begins with /", id="path without a slash"),
        pytest.param("path: ^012", "path: a path begins with /", id="octal path"),
        pytest.param("path: ^12", "path: this is text; found 12, which needs quotes", id="number as path"),
        pytest.param("path: ^/a/../b", "path: the path is ambiguous", id="dot segment"),
        pytest.param("path: ^/a//b", "path: the path holds an empty segment", id="empty segment"),
        pytest.param("path: ^'/a?b'", "path: a path has no query", id="query in the path"),
        pytest.param("path: ^/a b", "path: the path holds spaces", id="space in the path"),
        pytest.param("path: ^/ok/", "path: route 'ok' has this path already", id="same path"),
        pytest.param("name: ^ok", "name: another route has this name, in line 2; names are unique", id="same name"),
        pytest.param(f"upstream: ^'https://u:{SECRET}@h'", "upstream: a user and password in a URL are a secret in this file", id="password in the URL"),
        pytest.param("upstream: ^h.example", "upstream: a URL begins with https://", id="no scheme"),
        pytest.param("credential: ^cod", "credential: no credential has this name; did you mean 'code'?", id="unknown credential"),
        pytest.param("credential: ^zzz", "credential: no credential has this name; there are: code, none, sig", id="unknown credential, nothing close"),
        pytest.param("credential: ^{kind: none}", "credential: this is text; found a mapping", id="credential in place"),
        pytest.param("methods: [^post]", "methods.0: methods are written in capitals: POST", id="small method"),
        pytest.param("methods: [GET, ^connect]", "methods.1: CONNECT is never passed on", id="connect"),
        pytest.param("methods: [^TRACE]", "methods.0: TRACE is never passed on", id="trace"),
        pytest.param("methods: [^'P T']", "methods.0: this is not an HTTP method", id="not a method"),
        pytest.param("methods: ^[]", "methods: this list is empty", id="no methods"),
        pytest.param("methods: ^POST", "methods: this is a list, as in [a, b]; found text", id="method as text"),
        pytest.param("limits: {body: ^12}", "limits.body: a size needs its unit, as in 12MiB; found 12", id="size without a unit"),
        pytest.param("limits: {deadline: ^40}", "limits.deadline: a duration needs its unit, as in 40s; found 40", id="duration without a unit"),
        pytest.param("limits: {deadline: ^0}", "limits.deadline: a limit of 0 would let nothing through; none switches it off", id="zero"),
        pytest.param("limits: {deadline:^ }", "limits.deadline: this has no value; write one", id="no value"),
        pytest.param("limits: {^idel: 5s}", "limits.idel: unknown key; did you mean 'idle'?", id="unknown limit"),
        pytest.param("limits: {rate: ^5}", "limits.rate: a rate is written as 50/s", id="rate"),
        pytest.param("retry: {attempts: ^0}", "retry.attempts: this is a whole number from 1 up", id="no attempts"),
        pytest.param("retry: {idempotent: ^yes}", "retry.idempotent: this is true or false; found 'yes'", id="yes is text"),
        pytest.param("websocket: ^1", "websocket: this is true or false; found 1", id="number as bool"),
        pytest.param("breaker: {open: ^0s}", "breaker.open: a duration of 0 would let nothing through", id="breaker that never opens"),
        pytest.param("cors: ^{}", "cors.origins: this key is missing: origins of web pages", id="cors without origins"),
        pytest.param("cors: {origins: [^'https://x.example/']}", "cors.origins.0: an origin is scheme://host[:port]", id="origin with a path"),
        pytest.param("cors: {origins: [^'https://X.example']}", "cors.origins.0: an origin is scheme://host[:port] in lower case", id="origin in capitals"),
        pytest.param("cors: {origins: [^'https://x.example:443']}", "cors.origins.0: browsers leave the default port out of an origin; leave out :443", id="origin with its default port"),
        pytest.param("cors: ^{origins: ['*', 'https://x.example']}", "cors: origins '*' stands alone", id="star and more"),
        pytest.param("cors: ^{origins: ['*'], credentials: true}", "cors: credentials: true with origins '*'", id="star with credentials"),
        pytest.param("cors: {origins: ['*'], headers: [^'a b']}", "cors.headers.0: this is not a header name", id="header name"),
        pytest.param("connection: {address: ^h}", "connection.address: the port is missing", id="address without a port"),
        pytest.param("connection: {ca: ^none.pem}", "connection.ca: file {folder}/none.pem cannot be read: No such file", id="ca missing"),
        pytest.param("connection: {proxy: ^'https://p:1'}", "connection.proxy: a proxy is written http://host:port", id="https proxy"),
        pytest.param("connection: {^adress: h}", "connection.adress: unknown key; did you mean 'address'?", id="unknown key in connection"),
        pytest.param("forwarded: ^no", "forwarded: this is true or false; found 'no'", id="no is text"),
        pytest.param("credential: sig, upstream: ^'https://h/a%2Fb'", "upstream: this path cannot be signed: ", id="not signable"),
    ],
)  # fmt: skip
def test_in_a_route(tmp_path: Path, keys: str, expected: str) -> None:
    """A problem in one route stands where ^ does, and leaves the other routes alone."""
    text = f"""\
routes:
- {{name: ok, path: /ok, upstream: "https://h", credential: none}}
- {{{keys.replace("^", "")}, <<: {{name: bad, path: /bad, upstream: "https://h", credential: none}}}}
credentials:
  code: {{kind: app_code, app_code: {{env: APP_CODE}}}}
  sig: {{kind: app_signature, app_key: {{env: APP_CODE}}}}
"""

    found = problems(tmp_path, text)

    assert len(found) == 1
    assert found[0].startswith(f"3:{keys.index('^') + 4}: routes.1.{expected.format(folder=tmp_path)}")
    assert SECRET not in found[0]


def test_an_empty_route(tmp_path: Path) -> None:
    """What every route needs is asked for, with what it is."""
    assert problems(tmp_path, "routes: [{}]") == [
        "1:10: routes.0.credential: this key is missing: the name of a credential, or none where the upstream takes none",
        "1:10: routes.0.name: this key is missing: the route's name, also its metrics label",
        "1:10: routes.0.path: this key is missing: path prefix on segment boundaries, as /poetry; the longest wins, / takes the rest",
        "1:10: routes.0.upstream: this key is missing: where requests go, as https://host/v1/infers/ID",
    ]


def test_all_at_once_in_order(tmp_path: Path) -> None:
    """Every part of the file is looked at, however wrong the others are, and what must fit together as well."""
    text = """\
        callers:
          - {name: a, token: plain, routes: [gone]}
        routes:
          - name: one
            path: /a
            upstream: https://h
            credential: missing
            limits: {body: 12}
          - name: one
            path: /a
            upstream: https://h
            credential: broken
        credentials:
          broken: {kind: app_code}
        process: {drain: 45}
        extra: 1
        """
    assert [problem.partition(": ")[2].partition(":")[0] for problem in problems(tmp_path, text)] == [
        "callers.0.token",
        "callers.0.routes.0",
        "routes.0.credential",
        "routes.0.limits.body",
        "routes.1.name",
        "credentials.broken.app_code",
        "process.drain",
        "extra",
    ]


def test_how_it_reads(tmp_path: Path) -> None:
    """A count, then each problem on a line that an editor can jump to."""
    path = tmp_path / "gateway.yaml"
    path.write_text(
        dedent("""\
        routes:
          - name: poetry
            path: /poetry
            upstream: https://h.example
            credential: chat
            limits:
              body: 12
        credentials:
          chat:
            kind: app_code
            app_code: hunter2
        """)
    )

    with pytest.raises(ConfigProblems) as caught:
        load(path, KINDS, environ={})

    assert str(caught.value) == (
        f"{path}: 2 problems\n"
        f"  {path}:7:13: routes.0.limits.body: a size needs its unit, as in 12MiB; found 12\n"
        f"  {path}:11:15: credentials.chat.app_code: a secret comes from {{env: NAME}} or {{file: PATH}}, not from this file"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(None, "no such file; name the configuration with -c FILE or GATEWAY_CONFIG", id="missing"),
        pytest.param("", "the file is empty; it needs at least routes", id="empty"),
        pytest.param("a: [\n", "2:1: this is not YAML: expected the node content", id="not YAML"),
        pytest.param(
            "workers: 1\n",
            "1:1: routes: this key is missing: at least one: name, path, upstream, credential",
            id="no routes",
        ),
        pytest.param(
            "routes: []\n", "1:9: routes: this list is empty; a gateway needs at least one route", id="empty routes"
        ),
        pytest.param(
            "routes: {}\n",
            "1:9: routes: this is a list, each entry of which begins with '- '; found a mapping",
            id="routes as a mapping",
        ),
        pytest.param(
            "routes:\n  - name: a\n   path: /a\n",
            "3:4: the indentation fits nothing above; what belongs together begins in the same column",
            id="indentation",
        ),
        pytest.param(
            "routes: [x]\n", "1:10: routes.0: this is a mapping (key: value); found text", id="a route as text"
        ),
    ],
)
def test_whole_files(tmp_path: Path, content: str | None, expected: str) -> None:
    """A file that is no configuration at all is one problem."""
    path = tmp_path / "gateway.yaml"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigProblems) as caught:
        load(str(path), KINDS, environ=ENVIRON)

    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 1 problem"
    assert len(lines) == 2
    assert lines[1].startswith(f"  {path}:")
    assert (
        lines[1]
        .removeprefix(f"  {path}:")
        .strip()
        .startswith(
            expected.removeprefix("2:1: this is not YAML: expected the node content")
            if "while" in expected
            else expected
        )
    )


def test_a_secret_is_in_no_problem(tmp_path: Path) -> None:
    """Wherever a secret is put by mistake, no problem repeats it, and nor does what is chained to it."""
    places = [
        f"credentials: {{a: {SECRET}}}",
        f"credentials: {{a: {{kind: app_code, app_code: {SECRET}}}}}",
        f"credentials: {{a: {{kind: app_code, app_code: [{SECRET}]}}}}",
        f"credentials: {{a: {{kind: app_code, app_code: {{{SECRET}}}}}}}",
        f"credentials: {{a: {{kind: app_code, app_code: {{env: {SECRET}}}}}}}",
        f"credentials: {{a: {{kind: app_code, app_code: {{value: {SECRET}}}}}}}",
        f"credentials: {{a: {{kind: {SECRET}}}}}",
        f"credentials: {{a: {{kind: app_code, app_code: *{SECRET}}}}}",
        f"credentials: {{a: {{kind: app_code, app_code: !{SECRET}}}}}",
        f'credentials: {{a: {{kind: app_code, app_code: "\\{SECRET}"}}}}',
        f"callers: [{{name: {SECRET}!, token: {SECRET}, routes: ['*']}}]",
        f"process: {{head: {SECRET}, in_flight: {SECRET}, head_bytes: {SECRET}}}",
        f"listen: u:{SECRET}@h:1",
        f"tls: {SECRET}",
    ]
    for place in places:
        with pytest.raises(ConfigProblems) as caught:
            loaded(tmp_path, f"{place}\n{ROUTE}")

        assert SECRET not in f"{caught.value} {caught.value!r}", place
        assert caught.value.__cause__ is None, place
