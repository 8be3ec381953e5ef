#!/bin/bash
# A session by hand, with socat and jq: no client library, a line to the daemon for each request.
#
#   session.sh DIRECTORY COMMAND [ARGUMENT]...
#
# Mounts DIRECTORY, runs COMMAND, prints its output and what it changed, and discards it all.
set -euo pipefail
socket=${GOEXFS_SOCKET:-/run/goexfs/goexfs.sock}

# ask METHOD PARAMS: the result, or the error's message on stderr and status 1.
# The input is held open until the reply is there, since hanging up would cancel the request.
ask() {
    local line
    coproc daemon { socat - "UNIX-CONNECT:$socket"; }
    local out=${daemon[0]} in=${daemon[1]} pid=$daemon_PID
    jq -cn --arg method "$1" --argjson params "$2" \
        '{jsonrpc: "2.0", id: 1, method: $method, params: $params}' >&"$in"
    while read -r line <&"$out"; do
        jq -e 'has("id")' >/dev/null <<<"$line" && break
        # An event.  Here: a piece of output.
        jq -jr 'select(.method == "output" and .params.encoding == "utf-8") | .params.data' \
            <<<"$line" >&2
    done
    exec {in}>&-
    wait "$pid" || true
    jq -er 'if .error then (.error.message | halt_error(1)) else .result end' <<<"$line"
}

directory=$(realpath "$1")
shift
session=$(ask mount "$(jq -n --arg root "$directory" '{roots: [$root]}')" | jq -r .session)
trap 'ask discard "{\"session\": \"$session\"}" >/dev/null' EXIT

params=$(jq -n --arg session "$session" '{session: $session, command: $ARGS.positional}' --args -- "$@")
echo "exit status $(ask run "$params" | jq .status)"
ask diff "{\"session\": \"$session\"}" | jq -r '.changes[] | "\(.kind)\t\(.path)"'
