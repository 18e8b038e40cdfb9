#!/bin/sh
# Consumes with `cat recv`: recv.sh NOTES RECV. A loop that ends has failed: the supervisor starts it
# again, and what it had comes back.
notes=$1 recv=$2 before=
note() {
    read -r now rest < /proc/uptime
    echo "$1 $now $2" >> "$notes"
}
note life
read -r asked rest < /proc/uptime
while msg=$(cat "$recv"); do
    id= attempt=1 type=
    while IFS= read -r line && [ -n "$line" ]; do
        case $line in
        "Message-ID: <"*) id=${line#*<} id=${id%%@*} ;;
        "Type: "*) type=${line#*: } ;; # a notice of the kernel
        "Delivery-Attempt: "*) attempt=${line#*: } ;;
        esac
    done <<END
$msg
END
    [ -z "$before" ] || [ "$before" = "$id" ] || note ack "$before"
    before=$id
    [ -n "$type" ] || note got "$asked $id $attempt ${msg##*
}"
    read -r asked rest < /proc/uptime # when it asks for the next
done
exit 1
