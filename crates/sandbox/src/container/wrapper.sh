# Runs one command for the backend, inside the container: sets its limits,
# waits for it, ends what it has left running, and reports on stderr.
#
# What a command starts is recognised by its hard limit of pending signals:
# inherited by all descendants, whatever they do, and never to be raised again.
# Only builtins after the command, as there may be no room for a fork.
kind=$1 mark=$2 alone=$3 cwd=$4 files=$5 blocks=$6 merge=$7 channel=$8 fifo=$9
processes=${10} memory=${11}
shift 11
exec {report}>&2 2>/dev/null
# Signals to the whole group are for the command; its children get the default.
trap : HUP INT QUIT TERM USR1 USR2 ALRM PIPE
enable kill ulimit read printf
ulimit -i "$mark"

# Whether a process is one of ours to end.
marked() {
    local line hard=
    while read -r line; do
        case $line in "Max pending signals"*) set -- $line; hard=$5 ;; esac
    done <"/proc/$1/limits" || return 1
    case $kind in
        command) [ "$hard" -le "$mark" ] ;;
        *) [ "$hard" = "$mark" ] ;;
    esac
}

# Stops all before it kills any: what is stopped makes no new ones.
sweep() {
    local pid seen new
    [ "$alone" = 0 ] || kill -9 -1
    while :; do
        seen=' '
        while :; do
            new=
            for pid in /proc/[0-9]*; do
                pid=${pid#/proc/}
                case " 1 $$$seen" in *" $pid "*) continue ;; esac
                marked "$pid" && kill -STOP "$pid" && new=1 seen+="$pid "
            done
            [ "$new" ] || break
        done
        [ "$seen" != ' ' ] || return
        kill -9 $seen
        for pid in $seen; do
            while marked "$pid"; do :; done
        done
    done
}

# Input that nobody has read: an engine that still holds some when all have
# ended loses their last output.
drain() {
    local chunk
    while IFS= read -r -d '' -N 65536 chunk || [ "$chunk" ]; do :; done
}

finish() {
    drain
    printf '\0swegym %s %s\0' "$1" "$2" >&"$report"
    exit 0
}

if [ "$merge" = sweep ]; then
    sweep
    finish swept 0
fi
if ! cd -- "$cwd"; then
    [ -z "$fifo" ] || : >"$fifo"
    finish cwd 0
fi
start() {
    ulimit -c 0
    [ -z "$files" ] || ulimit -n "$files"
    [ -z "$blocks" ] || ulimit -f "$blocks"
    # These two only where no cgroup counts.
    [ -z "$processes" ] || ulimit -u "$processes"
    [ -z "$memory" ] || ulimit -v "$memory"
    [ -z "$fifo" ] || eval "exec $channel>\"\$fifo\""
}
case $merge in
    yes) (start; exec env -i "$@" 2>&1) {report}>&- ;;
    no) (start; exec env -i "$@" 2>&"$report" {report}>&-) ;;
    session)
        # The shell takes our place; who closes the session sweeps.
        start
        exec 60>&1 61>&"$report" 2>&"$report" {report}>&-
        trap - HUP INT QUIT TERM USR1 USR2 ALRM PIPE
        exec env -i "$@"
        ;;
esac
status=$?
sweep
finish ended "$status"
