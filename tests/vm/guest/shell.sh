#!/bin/bash
# What a test has the guest do: one command a line from the host, one answer a line back, over a virtio port. A line is an id, a limit in
# seconds, and the command in base64; the answer is the id, the exit code and what was printed, in base64.
#
# It writes to memory alone, so that it goes on while the root file system is frozen. Deliberately not here: several commands at once.
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8
exec 3<>/dev/virtio-ports/test.shell
while read -r -u 3 id limit encoded; do
    # To a file and not a pipe: what a command leaves running keeps a pipe open.
    timeout --kill-after=5 "$limit" bash -c "$(base64 -d <<<"$encoded")" 3>&- </dev/null >/run/test-shell.out 2>&1
    code=$?
    printf '%s %s %s\n' "$id" "$code" "$(base64 -w0 /run/test-shell.out)" >&3
done
