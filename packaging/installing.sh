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

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo -n "$@"
    else say "needs root or sudo for: $*" >&2; return 1
    fi
}

# Installs those of the named packages of Debian and its kin that are not there.
debian_packages() {
    local missing=() package
    for package in "$@"; do
        case "$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)" in
            ii*) ;;
            *) missing+=("$package") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    retry as_root apt-get update -qq
    retry as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" \
        >/dev/null
}
