struct a {
