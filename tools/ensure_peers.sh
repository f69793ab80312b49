#!/usr/bin/env bash
# Makes sure that the programs are there which tests and benches talk to: DCMTK, Orthanc, a C compiler, Docker with a
# static BusyBox and debootstrap for its images, and dicom3tools.
# Installs only what is missing, only as root, and not at all with MERCURE_NO_INSTALL=1; otherwise it says
# exactly what to install and ends with status 1.
set -euo pipefail

export PATH="$PATH:/usr/sbin:/usr/local/sbin"

missing=()

find_missing() {
    missing=()
    local program
    for program in storescp storescu dcmsend echoscu; do
        if ! command -v "$program" >/dev/null; then
            missing+=(dcmtk)
            break
        fi
    done
    command -v Orthanc >/dev/null || command -v orthanc >/dev/null || missing+=(orthanc)
    echo 'int main(void) { return 0; }' | gcc -x c -o /dev/null - 2>/dev/null || missing+=(gcc)
    command -v dockerd >/dev/null || docker_answers || missing+=(docker.io)
    command -v busybox >/dev/null || missing+=(busybox-static)
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    command -v dciodvfy >/dev/null || missing+=(dicom3tools)
}

docker_answers() {
    command -v docker >/dev/null && timeout 20 docker version >/dev/null 2>&1
}

may_install() {
    [ "$(id -u)" -eq 0 ] && [ "${MERCURE_NO_INSTALL:-0}" != 1 ]
}

debian_packages() {
    local package
    for package in "${missing[@]}"; do
        echo "$package"
        # Debian's gcc only recommends the C library's headers.
        if [ "$package" = gcc ]; then echo libc6-dev; fi
    done
}

install_debian() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2046  # one word per package is wanted
    apt-get install -y -qq --no-install-recommends $(debian_packages)
    # The package starts a service of its own on the standard ports; tests start theirs on free ones.
    if [[ " ${missing[*]} " == *" orthanc "* ]] && [ -d /run/systemd/system ]; then
        systemctl disable --now orthanc || true
    fi
    if [[ " ${missing[*]} " == *" docker.io "* ]] && [ -d /run/systemd/system ]; then
        systemctl disable --now docker.socket docker.service || true
    fi
}

install_rhel() {
    local package
    for package in "${missing[@]}"; do
        case "$package" in
            dcmtk) dnf install -y -q epel-release || true ;;
            docker.io) package=moby-engine ;;
            busybox-static) package=busybox ;;
        esac
        dnf install -y -q "$package" || true
    done
}

say_what_to_install() {
    echo "Missing for tests and benches: ${missing[*]}" >&2
    if command -v apt-get >/dev/null; then
        echo "Run as root:  apt-get install --no-install-recommends $(debian_packages | tr '\n' ' ')" >&2
    elif command -v dnf >/dev/null; then
        local packages=" ${missing[*]} "
        if [[ "$packages" == *" dcmtk "* ]]; then
            echo "Run as root:  dnf install epel-release && dnf install dcmtk   (DCMTK is in EPEL)" >&2
        fi
        if [[ "$packages" == *" gcc "* ]]; then
            echo "Run as root:  dnf install gcc" >&2
        fi
        if [[ "$packages" == *" orthanc "* ]]; then
            echo "Orthanc is neither in RHEL's repositories nor in EPEL: install a build of it so that 'Orthanc' is" >&2
            echo "found in PATH, or run the tests on Debian, which has it." >&2
        fi
        if [[ "$packages" == *" docker.io "* ]]; then
            echo "Install a Docker engine (dnf install moby-engine, or Docker's own packages)." >&2
        fi
        if [[ "$packages" == *" busybox-static "* ]]; then
            echo "Install a static BusyBox as 'busybox', and debootstrap (EPEL)." >&2
        fi
    else
        echo "Install DCMTK, Orthanc, a C compiler, Docker, a static BusyBox, debootstrap and dicom3tools so that they" >&2
        echo "are found in PATH." >&2
    fi
}

find_missing
if [ "${#missing[@]}" -eq 0 ]; then
    exit 0
fi
if may_install; then
    echo "Installing for tests and benches: ${missing[*]}"
    if command -v apt-get >/dev/null; then
        install_debian
    elif command -v dnf >/dev/null; then
        install_rhel
    fi
    find_missing
fi
if [ "${#missing[@]}" -gt 0 ]; then
    say_what_to_install
    exit 1
fi
