# Keeps one PostgreSQL server, and takes everything of it away when its standard input ends.
#
# Whoever starts this holds the other end of that pipe, and the system closes it when they end in any way.
# So no process and no file is left, also after a kill that nobody can catch.
#
# Arguments: the folder of the programs, a folder for temporary files, `memory` or `disk`, then settings (name=value).
# It reads one word a line, some with a place or a name behind it, and answers each with one line.
set -u
umask 077
trap '' HUP INT TERM PIPE # it ends with its standard input, and with nothing before

bin=$1
base=$2
place=$3
shift 3
for setting; do
    shift
    set -- "$@" -c "$setting"
done

if ! { [ -x "$bin/postgres" ] && [ -x "$bin/initdb" ]; }; then
    echo unreachable
    exit
fi
# The path of a socket has about 100 bytes at most.
usable() {
    [ -d "$1" ] && [ -w "$1" ] && [ -x "$1" ] && [ "${#1}" -le 60 ]
}

# Whether it has 2 GiB to give.
roomy() {
    set -- $(df -Pk "$1" 2>/dev/null | tail -n 1)
    [ "${4:-0}" -ge 2097152 ] 2>/dev/null
}

if [ "$place" = memory ] && usable /dev/shm && roomy /dev/shm; then
    base=/dev/shm
elif ! usable "$base"; then
    base=/tmp
fi
folder=$(mktemp -d "${base%/}/es-pg.XXXXXX") || exit
pid=
echo "$folder"

# Starting another program lets the shell notice that the server has ended.
alive() {
    [ -n "$pid" ] && sleep 0.02 && kill -0 "$pid" 2>/dev/null
}

stop() {
    [ -n "$pid" ] && kill -s "$1" "$pid" 2>/dev/null
    polls=0
    while alive; do
        polls=$((polls + 1))
        case $polls in
        300) kill -s QUIT "$pid" ;;
        900) kill -s KILL "$pid" ;;
        1000) break ;;
        esac
    done
    pid=
}

while read -r word; do
    case $word in
    init)
        "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C --no-sync \
            </dev/null >>"$folder/log" 2>&1
        echo "$?"
        ;;
    start)
        "$bin/postgres" -D "$folder/data" "$@" -c listen_addresses= -c port=5432 \
            -c "unix_socket_directories=\"$folder\"" </dev/null >>"$folder/log" 2>&1 &
        pid=$!
        echo "$pid"
        ;;
    alive) if alive; then echo yes; else echo no; fi ;;
    copy\ *)
        "$bin/pg_basebackup" -D "$folder/data" -h "${word#copy }" -p 5432 -U postgres -X stream -c fast --no-sync \
            </dev/null >>"$folder/log" 2>&1
        echo "$?"
        ;;
    follow\ *)
        echo "primary_conninfo = 'host=''${word#follow }'' port=5432 user=postgres'" >>"$folder/data/postgresql.auto.conf" \
            && touch "$folder/data/standby.signal"
        echo "$?"
        ;;
    from\ *)
        echo "restore_command = 'cp \"${word#from }/%f\" \"%p\"'" >>"$folder/data/postgresql.auto.conf" \
            && echo "recovery_target_action = promote" >>"$folder/data/postgresql.auto.conf" \
            && echo "hot_standby = off" >>"$folder/data/postgresql.auto.conf" \
            && touch "$folder/data/recovery.signal"
        echo "$?"
        ;;
    upto\ *)
        echo "recovery_target_name = '${word#upto }'" >>"$folder/data/postgresql.auto.conf"
        echo "$?"
        ;;
    promote)
        "$bin/pg_ctl" promote -w -t 60 -D "$folder/data" </dev/null >>"$folder/log" 2>&1
        echo "$?"
        ;;
    fast) stop INT && echo stopped ;;
    immediate) stop QUIT && echo stopped ;;
    *) echo "unknown" ;;
    esac
done

stop INT
rm -rf "$folder"
