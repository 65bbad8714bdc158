# What the scripts that install things say and do alike. To be sourced.
#
# Deliberately not here: what is installed.

say() { printf '%s\n' "$(basename "$0" .sh): $*"; }

# Runs a command up to three times: what it fetches may be away for a moment.
retry() {
    local try
    for try in 1 2 3; do
        if "$@"; then return 0; fi
        say "try $try of 3 failed: $*" >&2
        sleep $((try * 3))
    done
    return 1
}
