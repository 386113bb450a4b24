"""Tests the control API against its own description, with schemathesis.

Four runs: a gate without tokens, and one with tokens as an admin, as a viewer and without a token.
Prints the number of cases of each and ends with 1 if there is any finding.

    run.py SCHEMATHESIS BINARY [MAX_EXAMPLES]
"""

import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

from gate import Gate  # noqa: E402

ADMIN = "an-admin-token-for-tests-0123456789abcdef"

# A token that is made would close a gate without tokens for all requests after it. The other runs
# cover this route.
OPEN = ["--exclude-operation-id", "create_token"]


def run(name, schemathesis, gate, examples, token=None, more=()):
    """Runs all checks on a gate; returns whether there was no finding."""
    # What may be read before the first case: a draft with one of each, and a live revision.
    gate.ask("POST", "/rules", {"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}})
    gate.ask("POST", "/outputs", {"id": "http-1", "type": "console"})
    gate.ask("POST", "/publish")
    command = [schemathesis, "--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += [f"{gate.url}/openapi.json", "--no-color", "--max-examples", str(examples), *more]
    if token:
        command += ["--header", f"Authorization: Bearer {token}"]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    print(f"\n== schema: {name}", flush=True)
    done = subprocess.run(
        command, env=environment, cwd=gate.folder.name, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )
    if gate.process.poll() is not None:
        print(f"the gate ended:\n{gate.log.read_text()[-4000:]}")
        return False
    if done.returncode != 0:
        print(done.stdout)
        return False
    cases = re.search(r"(\d+) generated", done.stdout)
    print(f"{cases.group(1) if cases else '?'} cases, 0 findings")
    return True


def main():
    schemathesis, binary = (str(pathlib.Path(given).absolute()) for given in sys.argv[1:3])
    examples = sys.argv[3] if len(sys.argv) > 3 else "60"
    version = subprocess.run([schemathesis, "--version"], capture_output=True, text=True)
    print(version.stdout.strip())
    passed = []
    with Gate(binary) as gate:
        passed.append(run("no tokens", schemathesis, gate, examples, more=OPEN))
    with Gate(binary, token=ADMIN) as gate:
        passed.append(run("with an admin token", schemathesis, gate, examples, ADMIN))
    with Gate(binary, token=ADMIN) as gate:
        new = {"name": "reader", "role": "viewer"}
        viewer = gate.ask("POST", "/tokens", new)["token"]
        passed.append(run("with a viewer token", schemathesis, gate, examples, viewer))
    with Gate(binary, token=ADMIN) as gate:
        passed.append(run("without a token", schemathesis, gate, examples))
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
