#!/bin/sh
# A metadata service (version 2 only) on stdin and stdout that answers from the files in $1.
cd "$1" || exit 1
cr=$(printf '\r')
while read -r method path _; do
    token=
    while read -r header; do
        header=${header%"$cr"}
        case $header in
        '') break ;;
        X-aws-ec2-metadata-token:*) token=${header#*: } ;;
        esac
    done
    case $method$token in
    PUT) file=token ;;
    GETsecret) file=.$path ;;
    *) file=refused ;;
    esac
    [ ! -d "$file" ] || file=$file/index
    if [ -f "$file" ]; then
        printf 'HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n' "$(wc -c <"$file")"
        cat "$file"
    else
        printf 'HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone'
    fi
done
