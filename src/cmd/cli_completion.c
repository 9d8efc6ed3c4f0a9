/* SPDX-License-Identifier: Apache-2.0 */
/* creedence completion bash: a script for the shell, made from the list of verbs. */
#include <stdio.h>
#include <string.h>

#include "cmd/cli_verbs.h"

/* One case per verb: "disk attach") its options. */
static void print_options(void)
{
    for (const struct cli_verb *const *v = cli_verbs; *v; v++) {
        printf("    '%s') options='--json --control --help", (*v)->name);
        for (const struct option *o = (*v)->options; o && o->name; o++)
            printf(" --%s", o->name);
        puts("' ;;");
    }
}

/* First words, and what may follow each of them. */
static void print_words(void)
{
    fputs("    local first='", stdout);
    const char *last = "";
    for (const struct cli_verb *const *v = cli_verbs; *v; v++) {
        size_t len = strcspn((*v)->name, " ");
        if (strlen(last) >= len && strncmp(last, (*v)->name, len) == 0 && (last[len] == ' ' || !last[len])) continue;
        printf("%s%.*s", *last ? " " : "", (int)len, (*v)->name);
        last = (*v)->name;
    }
    puts("'");
    puts("    local second=''\n    case \"$one\" in");
    for (const struct cli_verb *const *v = cli_verbs; *v; v++) {
        const char *space = strchr((*v)->name, ' ');
        if (space) printf("    %.*s) second+=' %s' ;;&\n", (int)(space - (*v)->name), (*v)->name, space + 1);
    }
    puts("    completion) second='bash' ;;\n    esac");
}

static int completion(struct cli *c)
{
    while (cli_option(c) != -1)
        ;
    if (strcmp(cli_arguments(c, 1)[0], "bash") != 0) cli_usage_error(c, "only bash is known");
    puts("# bash completion for creedence; made by `creedence completion bash`\n"
         "_creedence()\n"
         "{\n"
         "    local current=\"${COMP_WORDS[COMP_CWORD]}\" before=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
         "    local one=\"${COMP_WORDS[1]-}\" two=\"${COMP_WORDS[2]-}\" options=''\n"
         "    COMPREPLY=()");
    print_words();
    puts("    if ((COMP_CWORD == 1)); then\n"
         "        COMPREPLY=($(compgen -W \"$first --help --version\" -- \"$current\"))\n"
         "        return\n"
         "    fi\n"
         "    if ((COMP_CWORD == 2)) && [[ -n $second ]]; then\n"
         "        COMPREPLY=($(compgen -W \"$second\" -- \"$current\"))\n"
         "        return\n"
         "    fi\n"
         "    case \"$before\" in\n"
         "    --leaf|--backing|--path|--socket|--control|--connect|--prefix|--boot-dir|--write|-w|--key|--cert|--ca) "
         "compopt -o "
         "filenames\n"
         "        COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n"
         "    --format|--backing-format) COMPREPLY=($(compgen -W 'raw qcow2' -- \"$current\")); return ;;\n"
         "    --direct|--packed|--gro|--in-order|--offloads) COMPREPLY=($(compgen -W 'on off' -- \"$current\")); "
         "return ;;\n"
         "    --write-cache) COMPREPLY=($(compgen -W 'writeback writethrough' -- \"$current\")); return ;;\n"
         "    --datapath) COMPREPLY=($(compgen -W 'direct staged' -- \"$current\")); return ;;\n"
         "    --fail-mode) COMPREPLY=($(compgen -W 'standalone secure' -- \"$current\")); return ;;\n"
         "    --type) COMPREPLY=($(compgen -W 'tap af_packet af_xdp' -- \"$current\")); return ;;\n"
         "    --device) COMPREPLY=($(compgen -W \"$(ls /sys/class/net)\" -- \"$current\")); return ;;\n"
         "    --vlan-mode) COMPREPLY=($(compgen -W 'trunk access native-tagged native-untagged' -- \"$current\")); "
         "return ;;\n"
         "    --link) COMPREPLY=($(compgen -W 'up down' -- \"$current\")); return ;;\n"
         "    --direction) COMPREPLY=($(compgen -W 'in out both' -- \"$current\")); return ;;\n"
         "    --protocol) COMPREPLY=($(compgen -W 'any ip tcp udp sctp icmp arp' -- \"$current\")); return ;;\n"
         "    --vif) COMPREPLY=($(compgen -W \"$(creedence vif list --names 2>/dev/null)\" -- \"$current\")); return "
         ";;\n"
         "    --flows) COMPREPLY=($(compgen -W 'mega exact' -- \"$current\")); return ;;\n"
         "    --tx) COMPREPLY=($(compgen -W 'map copy' -- \"$current\")); return ;;\n"
         "    --bridge) COMPREPLY=($(compgen -W \"$(creedence bridge list --names 2>/dev/null)\" -- \"$current\")); "
         "return ;;\n"
         "    --sector-size) COMPREPLY=($(compgen -W '512 4096' -- \"$current\")); return ;;\n"
         "    --disk) COMPREPLY=($(compgen -W \"$(creedence disk list --names 2>/dev/null)\" -- \"$current\")); return "
         ";;\n"
         "    esac\n"
         "    case \"$one${second:+ $two}\" in");
    print_options();
    puts("    esac\n"
         "    if [[ $current == -* ]]; then\n"
         "        COMPREPLY=($(compgen -W \"$options\" -- \"$current\"))\n"
         "        return\n"
         "    fi\n"
         "    case \"$one $two\" in\n"
         "    'disk attach'|'disk list') ;;\n"
         "    disk*) COMPREPLY=($(compgen -W \"$(creedence disk list --names 2>/dev/null)\" -- \"$current\")) ;;\n"
         "    'bridge add'|'bridge list'|'port list'|'vif list'|switch*|tls*|'megaflow stats') ;;\n"
         "    bridge*|controller*|flow*|group*|meter*|megaflow*|mac*|'port add'|'vif attach') ((COMP_CWORD == 3)) &&\n"
         "        COMPREPLY=($(compgen -W \"$(creedence bridge list --names 2>/dev/null)\" -- \"$current\"))\n"
         "        if ((COMP_CWORD == 4)) && [[ $one == @(flow|group|meter) && $two != dump && $two != trace ]]; then\n"
         "            compopt -o filenames; COMPREPLY=($(compgen -f -- \"$current\"))\n"
         "        fi ;;\n"
         "    port*) COMPREPLY=($(compgen -W \"$(creedence port list --names 2>/dev/null)\" -- \"$current\")) ;;\n"
         "    vif*|'policy show') COMPREPLY=($(compgen -W \"$(creedence vif list --names 2>/dev/null)\" -- "
         "\"$current\")) ;;\n"
         "    capture*) COMPREPLY=($(compgen -W \"$(creedence port list --names 2>/dev/null)\n"
         "        $(creedence vif list --names 2>/dev/null) stop\" -- \"$current\")) ;;\n"
         "    image*) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$current\")) ;;\n"
         "    esac\n"
         "}\n"
         "complete -F _creedence creedence");
    return CLI_OK;
}

const struct cli_verb cli_completion = {
    .name = "completion",
    .args = "bash",
    .summary = "Print a script that completes verbs, options and names in a shell",
    .run = completion,
    .help = "\nExamples:\n"
            "  source <(creedence completion bash)\n",
};
