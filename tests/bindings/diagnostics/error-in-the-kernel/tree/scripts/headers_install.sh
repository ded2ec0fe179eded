grep -v -e __KERNEL__ -e gone -e endif "$1" > "$2"
