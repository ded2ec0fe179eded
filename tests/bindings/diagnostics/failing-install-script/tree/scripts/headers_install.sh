echo "error: no licence line" >&2
exit 1
