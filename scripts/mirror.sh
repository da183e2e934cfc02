#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# mirror.sh [FOLDER]: prints the Debian mirror that the apt of this machine uses,
# as FOLDER (/etc/apt) says: the first one with 'main' of a Debian release. Its own
# file first: other programs' repositories are named alike, or come with their
# own idea of main.
set -euo pipefail
shopt -s extglob
folder=${1:-/etc/apt}

# Deb822 paragraphs and one-line entries as lines "URI|suites|components".
entries() {
  local files=()
  for file in "$folder"/sources.list.d/debian.sources "$folder"/sources.list.d/debian.list "$folder"/sources.list \
      "$folder"/sources.list.d/*.sources "$folder"/sources.list.d/*.list; do
    if [ -r "$file" ]; then files+=("$file"); fi
  done
  [ ${#files[@]} -gt 0 ] || return 0
  for file in "${files[@]}"; do
    case $file in
    *.sources)
      awk '
        function flush() {
          if (types ~ /deb/ && enabled !~ /^no/) print uris "|" suites "|" components
          types = uris = suites = components = enabled = ""
        }
        FNR == 1 { flush() }
        /^#/ { next }
        /^[ \t]*$/ { flush(); next }
        # A value goes on in lines that begin with a blank.
        { if (match($0, /^[A-Za-z-]+:/)) { key = tolower(substr($0, 1, RLENGTH - 1)); $0 = substr($0, RLENGTH + 1) }
          sub(/^[ \t]+/, "")
          if (key == "types") types = types " " $0
          if (key == "uris") uris = uris (uris == "" ? "" : " ") $0
          if (key == "suites") suites = suites " " $0
          if (key == "components") components = components " " $0
          if (key == "enabled") enabled = $0 }
        END { flush() }' "$file" ;;
    *)
      sed -E 's/#.*//; s/\[[^]]*\]//' "$file" |
        awk '$1 == "deb" { c = ""; for (i = 4; i <= NF; i++) c = c " " $i; print $2 "|" $3 "|" c }' ;;
    esac
  done
}

# The first entry for a release with main; security and update suites are other words.
choose() {
  awk -F '|' '
    BEGIN { n = split("buster bullseye bookworm trixie forky duke sid oldstable stable testing unstable", names, " ")
            for (i = 1; i <= n; i++) release[names[i]] = 1 }
    { n = split($2, suites, " "); is = 0
      for (i = 1; i <= n; i++) { sub(/\/.*/, "", suites[i]); if (suites[i] in release) is = 1 }
      n = split($3, components, " "); main = 0
      for (i = 1; i <= n; i++) if (components[i] == "main") main = 1
      n = split($1, uris, " ")
      # Not installation media.
      for (i = 1; i <= n; i++) if (is && main && uris[i] ~ /^(https?|mirror\+file):/) print uris[i] }'
}

found=$(entries | choose | head -n 1)
case $found in
'') exit 1 ;;
# Debian's cloud images: a list of mirrors in a file.
mirror+file:*) awk '$1 ~ /^https?:/ { print $1; found = 1; exit } END { exit !found }' "/${found#mirror+file:*(/)}" ;;
*) echo "$found" ;;
esac
