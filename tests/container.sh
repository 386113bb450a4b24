#!/usr/bin/env bash
# Does the quick start against the real image, with nc and curl, as a user would.
#
#   tests/container.sh           builds the image from this checkout first
#   tests/container.sh IMAGE     takes one that is there
#
# DOCKER_BUILD_OPTS, DOCKER_RUN_OPTS   more options, e.g. "--network host" where no bridge can be had
# STREAMGATE_TCP, _UDP, _HTTP, _CONTROL   ports on this host; free ones are taken otherwise
#
# Nothing sleeps for a fixed time: every wait is for a condition, with a deadline.
set -euo pipefail

DEADLINE=30 # seconds for any one condition; generous, as the machine may be busy
STORE=/var/lib/streamgate

if ! docker info >/dev/null 2>&1; then
    echo "container: skipped, no Docker engine answers here"
    exit 0
fi
for tool in nc curl; do
    if ! command -v "$tool" >/dev/null; then
        echo "container: this check needs $tool" >&2
        exit 1
    fi
done

read -r -a build_opts <<<"${DOCKER_BUILD_OPTS:-}"
read -r -a run_opts <<<"${DOCKER_RUN_OPTS:-}"
gate=streamgate-test-$$
volume=streamgate-test-$$
senders=()

# --- report ---------------------------------------------------------------------------------------

ok() { printf 'ok    %s\n' "$*"; }

fail() {
    printf 'FAIL  %s\n' "$*"
    if docker inspect "$gate" >/dev/null 2>&1; then
        echo "----- stdout of the container (last 20 lines)"
        docker logs "$gate" 2>/dev/null | tail -n 20
        echo "----- stderr of the container (last 40 lines)"
        docker logs "$gate" 2>&1 >/dev/null | tail -n 40
        echo "----- state"
        docker inspect --format '{{json .State}}' "$gate"
    fi
    exit 1
} >&2

hang_up() {
    # Their end is expected; only the shell's notice of it is unwanted.
    for pid in ${senders[@]+"${senders[@]}"}; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    senders=()
}

clean_up() {
    hang_up
    docker rm --force --volumes "$gate" >/dev/null 2>&1 || true
    docker volume rm --force "$volume" >/dev/null 2>&1 || true
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# eventually WHAT COMMAND...: polls until the command is true; fails at the deadline, or at once if
# the container has ended, as then nothing can become true any more.
eventually() {
    local what=$1 end=$((SECONDS + DEADLINE))
    shift
    until "$@"; do
        [[ $(docker inspect --format '{{.State.Running}}' "$gate") == true ]] \
            || fail "$what: the container ended"
        ((SECONDS < end)) || fail "$what: not within $DEADLINE s"
        sleep 0.1
    done
    ok "$what"
}

# --- the gate -------------------------------------------------------------------------------------

# free_port FROM: a port of FROM..FROM+1999 on which nothing answers over TCP. UDP cannot be asked so;
# if its port is taken, the gate says so and ends.
free_port() {
    local port
    while port=$(($1 + RANDOM % 2000)); do
        (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# Both a bare port and ADDRESS:PORT, as the gate takes it, are understood.
control=${STREAMGATE_CONTROL:-$(free_port 20000)}; control=${control##*:}
http=${STREAMGATE_HTTP:-$(free_port 22000)}; http=${http##*:}
tcp=${STREAMGATE_TCP:-$(free_port 24000)}; tcp=${tcp##*:}
udp=${STREAMGATE_UDP:-$(free_port 26000)}; udp=${udp##*:}

if [[ " ${run_opts[*]-} " =~ \ --net(work)?[=\ ]host\  ]]; then
    # No port is mapped on the host's network, so the gate itself has to move.
    ports=(
        --env "STREAMGATE_CONTROL=0.0.0.0:$control" --env "STREAMGATE_HTTP=127.0.0.1:$http"
        --env "STREAMGATE_TCP=127.0.0.1:$tcp" --env "STREAMGATE_UDP=127.0.0.1:$udp"
    )
else
    ports=(
        --publish "127.0.0.1:$control:8000" --publish "127.0.0.1:$http:8080"
        --publish "127.0.0.1:$tcp:8081" --publish "127.0.0.1:$udp:8082/udp"
    )
fi

# start ARGUMENT...: runs the gate, confined as compose.yaml confines it, and asks for the token that it
# made at its first start, as README shows it.
start() {
    docker run --detach --name "$gate" --volume "$volume:$STORE" \
        --read-only --cap-drop ALL --security-opt no-new-privileges --health-interval 1s \
        "${ports[@]}" ${run_opts[@]+"${run_opts[@]}"} "$image" "$@" >/dev/null \
        || fail "docker run"
    eventually "the gate is ready${*:+ (with $*)}" ready
    token=$(docker exec "$gate" streamgate token show) || fail "streamgate token show"
}

# stop: asks as `docker stop` does, and wants a clean end. After the grace period Docker kills, which
# shows as 137.
stop() {
    docker stop --time "$DEADLINE" "$gate" >/dev/null
    local code
    code=$(docker inspect --format '{{.State.ExitCode}}' "$gate")
    [[ $code == 0 ]] || fail "SIGTERM: exit code $code, expected 0"
    ok "SIGTERM: exit code 0"
}

# A proxy in the environment is not for this host.
fetch() { curl --silent --show-error --noproxy '*' --max-time "$DEADLINE" "$@"; }
ready() { fetch --fail --output /dev/null "http://127.0.0.1:$control/readyz" 2>/dev/null; }
healthy() { [[ $(docker inspect --format '{{.State.Health.Status}}' "$gate") == healthy ]]; }

# request WHAT CURL-ARGUMENT...: leaves the body in $answer; anything but 2xx fails.
request() {
    local what=$1 status
    shift
    answer=$(fetch --header "Authorization: Bearer $token" --write-out '\n%{http_code}' "$@") || fail "$what: no answer"
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    [[ $status == 2?? ]] || fail "$what: status $status: $answer"
}

add_rule() {
    request "POST /rules" -X POST "http://127.0.0.1:$control/rules" \
        -H "Content-Type: application/json" -d "$1"
}
publish() { request "POST /publish" -X POST "http://127.0.0.1:$control/publish" -d ''; }

# send_tcp LINES, send_udp LINES: some kinds of nc stay until the other side closes, and each has its
# own flag against it; so nc runs beside us, until hang_up.
send_tcp() { nc 127.0.0.1 "$tcp" <<<"$1" >/dev/null 2>&1 & senders+=("$!"); }
send_udp() { nc -u 127.0.0.1 "$udp" <<<"$1" >/dev/null 2>&1 & senders+=("$!"); }
send_http() {
    request "POST /ingest" -X POST "http://127.0.0.1:$http/ingest" \
        -H "Content-Type: text/plain" --data-binary "$1"
}

# seen LINE: whether it stands in stdout, whole.
seen() { [[ $'\n'$(docker logs "$gate" 2>/dev/null)$'\n' == *$'\n'"$1"$'\n'* ]]; }
arrives() {
    eventually "$1" seen "$2"
    hang_up
}

# stdout_is LINE...: exactly these, in any order; so what was dropped is absent, and nothing but events
# is on stdout.
stdout_is() {
    local want got
    want=$(printf '%s\n' "$@" | sort)
    got=$(docker logs "$gate" 2>/dev/null | sort)
    [[ $got == "$want" ]] || fail "stdout holds something else than expected:"$'\n'"$want"
    ok "stdout holds the expected events and nothing else"
}

# --- the image ------------------------------------------------------------------------------------

if (($# > 0)); then
    image=$1
else
    image=streamgate:container-test
    log=$(mktemp)
    echo "building $image"
    if ! docker build ${build_opts[@]+"${build_opts[@]}"} --tag "$image" \
        "$(dirname "$0")/.." >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        fail "docker build"
    fi
    rm -f "$log"
fi
[[ $(docker image inspect --format '{{.Config.User}}' "$image") =~ ^[1-9][0-9]*(:|$) ]] \
    || fail "$image does not run as a numbered user other than root"
ok "$image: $(($(docker image inspect --format '{{.Size}}' "$image") / 1000000)) MB, not root"

# --- the quick start ------------------------------------------------------------------------------

start
status=$(fetch --output /dev/null --write-out '%{http_code}' "http://127.0.0.1:$control/status")
[[ $status == 401 ]] || fail "GET /status without a token: status $status, expected 401"
ok "the control API needs the token of \`streamgate token show\`"
eventually "the health check of the image agrees" healthy

send_tcp "DEBUG: test log"
arrives "TCP: an empty pipeline passes the line on" "DEBUG: test log"
send_udp "INFO: over udp"
arrives "UDP: the line is passed on" "INFO: over udp"
send_http "INFO: over http"
arrives "HTTP: the line is passed on" "INFO: over http"

add_rule '{"id": "drop_debug", "type": "filter", "params": {"value": "DEBUG"}}'
publish
# One connection keeps its order: once the second line is out, the first would be too.
send_tcp $'DEBUG: not wanted\nINFO: after the rule'
arrives "filter: DEBUG is silent, a later INFO appears" "INFO: after the rule"

add_rule '{"id": "ssn", "type": "redact", "params":
    {"pattern": "\\d{3}-\\d{2}-\\d{4}", "replacement": "XXX-XX-XXXX"}}'
publish
send_tcp "INFO: ssn 123-45-6789 of a user"
arrives "redact: the SSN is replaced" "INFO: ssn XXX-XX-XXXX of a user"

# Accepted and then told to stop: what was answered with 2xx must still come out.
send_http "INFO: accepted before the stop"
stop
stdout_is "DEBUG: test log" "INFO: over udp" "INFO: over http" "INFO: after the rule" \
    "INFO: ssn XXX-XX-XXXX of a user" "INFO: accepted before the stop"

# --- a new container on the same volume -----------------------------------------------------------

docker rm "$gate" >/dev/null
start --config /etc/streamgate/streamgate.toml
request "GET /rules" "http://127.0.0.1:$control/rules"
[[ $answer == *'"drop_debug"'* && $answer == *'"ssn"'* ]] || fail "the rules are gone: $answer"
ok "the rules are still there"
send_tcp $'DEBUG: not wanted\nINFO: ssn 123-45-6789, again'
arrives "and in force without publishing" "INFO: ssn XXX-XX-XXXX, again"
stop
stdout_is "INFO: ssn XXX-XX-XXXX, again"

echo "container: all well"
