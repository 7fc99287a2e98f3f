"""``completion``: what a shell needs to complete commands, for ``ppl-text`` and for ``python -m ppl_text``.

click asks the program itself for what fits (:mod:`ppl_text.cli.completers`); the scripts differ from click's in that
they know the second way to call it: behind ``python -m ppl_text`` the words are handed on as if ``ppl-text`` stood
there, and any other use of ``python`` is left to what completed it before.
"""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete, add_completion_class

from .command import Command
from .entry import COMPLETE
from .output import result

BASH = """\
_ppl_text_answer() {  # words and place: what is typed; arguments: the program that is asked
    local IFS=$'\\n' line type value
    COMPREPLY=()
    for line in $(env COMP_WORDS="${words[*]}" COMP_CWORD="$place" %(complete_var)s=bash_complete "$@" 2>/dev/null); do
        IFS=',' read -r type value <<< "$line"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}

_ppl_text_program() {
    local -a words=("${COMP_WORDS[@]}")
    local place=$COMP_CWORD
    _ppl_text_answer "$1"
}

_ppl_text_python() {
    if [[ ${COMP_WORDS[1]} == -m && ${COMP_WORDS[2]} == ppl_text && $COMP_CWORD -gt 2 ]]; then
        local -a words=(ppl-text "${COMP_WORDS[@]:3}")
        local place=$((COMP_CWORD - 2))
        _ppl_text_answer "$1" -m ppl_text
    elif [[ -n $_ppl_text_before ]]; then
        "$_ppl_text_before" "$@"
    else
        COMPREPLY=()
        compopt -o bashdefault -o default
    fi
}

_ppl_text_before=$(complete -p python3 2>/dev/null | sed -n 's/.* -F \\([^ ]*\\) .*/\\1/p')
[[ $_ppl_text_before == _ppl_text_python ]] && _ppl_text_before=
complete -o nosort -F _ppl_text_program ppl-text
complete -o nosort -F _ppl_text_python python python3
"""

ZSH = """\
#compdef ppl-text
_ppl_text_answer() {
    local -a completions described response
    local type key descr
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete "$@" 2>/dev/null)}")
    for type key descr in ${response}; do
        case $type in
            plain) [[ $descr == _ ]] && completions+=("$key") || described+=("$key:$descr") ;;
            dir) _path_files -/ ;;
            file) _path_files -f ;;
        esac
    done
    [[ -n $described ]] && _describe -V unsorted described -U
    [[ -n $completions ]] && compadd -U -V unsorted -a completions
}

_ppl_text_program() {
    _ppl_text_answer "${(Q)words[1]}"
}

_ppl_text_python() {
    if [[ $words[2] == -m && $words[3] == ppl_text ]] && (( CURRENT > 3 )); then
        local program="${(Q)words[1]}"
        words=(ppl-text "${(@)words[4,-1]}")
        (( CURRENT -= 2 ))
        _ppl_text_answer "$program" -m ppl_text
    elif (( $+functions[_python] )); then
        _python "$@"
    else
        _default "$@"
    fi
}

compdef _ppl_text_program ppl-text
compdef _ppl_text_python python python3
"""

FISH = """\
function __ppl_text_answer
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    set -l program $typed[1]
    if __ppl_text_is_module
        set program $typed[1] -m ppl_text
        set typed ppl-text $typed[4..-1]
    end
    set -l words (string escape -- $typed $current | string join ' ')
    for line in (env COMP_WORDS="$words" COMP_CWORD="$current" %(complete_var)s=fish_complete $program 2>/dev/null)
        set -l found (string split -m 1 ',' -- $line)
        switch $found[1]
            case dir
                __fish_complete_directories $found[2]
            case file
                __fish_complete_path $found[2]
            case plain
                echo $found[2]
        end
    end
end

function __ppl_text_is_module
    set -l typed (commandline -opc)
    test (count $typed) -ge 3; and test "$typed[2]" = -m; and test "$typed[3]" = ppl_text
end

complete --command ppl-text --no-files --arguments '(__ppl_text_answer)'
for python in python python3
    complete --command $python --condition __ppl_text_is_module --no-files --arguments '(__ppl_text_answer)'
end
"""


@add_completion_class
class Bash(BashComplete):
    """bash, 4.4 or newer."""

    source_template = BASH


@add_completion_class
class Zsh(ZshComplete):
    """zsh, after ``compinit``."""

    source_template = ZSH


@add_completion_class
class Fish(FishComplete):
    """fish."""

    source_template = FISH


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}


def own_shell() -> str | None:
    """The user's shell, where its completion is known."""
    name = os.path.basename(os.environ.get("SHELL", ""))
    return name if name in SHELLS else None


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(list(SHELLS)), required=False)
def completion(shell: str | None) -> None:
    """Print what makes SHELL (default: yours) complete commands, options, recipes, guides, objectives and runs.

    bash, in ~/.bashrc:  eval "$(python -m ppl_text completion bash)"

    zsh, in ~/.zshrc after compinit:  eval "$(python -m ppl_text completion zsh)"

    fish, in ~/.config/fish/config.fish:  python -m ppl_text completion fish | source
    """
    chosen = shell or own_shell()
    if chosen is None:
        raise click.UsageError(f"which shell? Give one of {', '.join(SHELLS)}")
    script = script_of(chosen)
    result(lambda: {"shell": chosen, "script": script}, lambda: click.echo(script, nl=False))


def script_of(shell: str) -> str:
    """The script of a shell."""
    variables: dict[str, Any] = {"complete_var": COMPLETE}
    return SHELLS[shell].source_template % variables
