#!/usr/bin/env bash
# Print the names of this repository's shell scripts, one a line: by suffix, or by their first line.
set -euo pipefail
cd "$(dirname "$0")/.."
find .ci scripts jobs benchmarks containers -type f 2>/dev/null | while read -r file; do
    case $file in
    *.sh | *.sbatch) echo "$file" ;;
    *) if head -c 64 "$file" | grep -qaE '^#!.*\b(ba)?sh$'; then echo "$file"; fi ;;
    esac
done
