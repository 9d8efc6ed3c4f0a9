/* SPDX-License-Identifier: Apache-2.0 */
/* creedence: the command line. Chooses the verb; the verbs are in cli_*.c. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cmd/cli_verbs.h"
#include "control/version.h"

const struct cli_verb *const cli_verbs[] = {
    &cli_disk_attach,
    &cli_disk_detach,
    &cli_disk_list,
    &cli_disk_show,
    &cli_disk_resize,
    &cli_disk_stats,
    &cli_image_create,
    &cli_image_clone,
    &cli_image_info,
    &cli_image_check,
    &cli_cache_show,
    &cli_cache_set,
    &cli_cache_drop,
    &cli_bridge_add,
    &cli_bridge_set,
    &cli_bridge_del,
    &cli_bridge_list,
    &cli_bridge_show,
    &cli_port_add,
    &cli_port_del,
    &cli_port_set,
    &cli_port_list,
    &cli_port_stats,
    &cli_vif_attach,
    &cli_vif_detach,
    &cli_vif_set,
    &cli_vif_list,
    &cli_vif_stats,
    &cli_policy_add,
    &cli_policy_del,
    &cli_policy_list,
    &cli_policy_show,
    &cli_flow_add,
    &cli_flow_mod,
    &cli_flow_del,
    &cli_flow_dump,
    &cli_flow_trace,
    &cli_group_add,
    &cli_group_mod,
    &cli_group_del,
    &cli_group_dump,
    &cli_meter_add,
    &cli_meter_mod,
    &cli_meter_del,
    &cli_meter_dump,
    &cli_megaflow_dump,
    &cli_megaflow_stats,
    &cli_mac_show,
    &cli_mac_flush,
    &cli_capture_verb,
    &cli_controller_add,
    &cli_controller_del,
    &cli_controller_list,
    &cli_tls_set,
    &cli_tls_show,
    &cli_tls_del,
    &cli_switch_set,
    &cli_status,
    &cli_top,
    &cli_upgrade,
    &cli_shutdown,
    &cli_version,
    &cli_debug_status,
    &cli_debug_on,
    &cli_debug_off,
    &cli_completion,
    NULL,
};

static void print_usage(FILE *to)
{
    fputs("Usage: creedence VERB [ARGUMENT]... [OPTION]...\n"
          "Virtual machines' disks and networks, from the command line.\n\n",
          to);
    for (const struct cli_verb *const *v = cli_verbs; *v; v++)
        fprintf(to, "  %-16s %s\n", (*v)->name, (*v)->summary);
    fputs("\n`creedence VERB --help` shows a verb's options and examples. All but completion take --json.\n"
          "Exit status: 0 done, 1 failed, 2 used wrongly.\n",
          to);
}

/* How many words of the command line the verb's name takes; 0: it is not meant. */
static int matches(const struct cli_verb *v, int argc, char **argv)
{
    const char *space = strchr(v->name, ' ');
    if (!space) return argc > 1 && strcmp(argv[1], v->name) == 0;
    size_t len = (size_t)(space - v->name);
    bool both =
        argc > 2 && strlen(argv[1]) == len && strncmp(argv[1], v->name, len) == 0 && strcmp(argv[2], space + 1) == 0;
    return both ? 2 : 0;
}

static int unknown_verb(int argc, char **argv)
{
    unsigned like = 0;
    fprintf(stderr, "creedence: %s%s%s: no such verb", argv[1], argc > 2 ? " " : "", argc > 2 ? argv[2] : "");
    for (const struct cli_verb *const *v = cli_verbs; *v; v++) {
        size_t len = strlen(argv[1]);
        if (strncmp((*v)->name, argv[1], len) == 0 && (*v)->name[len] == ' ')
            fprintf(stderr, "%s creedence %s", like++ ? "," : "; did you mean", (*v)->name);
    }
    fprintf(stderr, "%s\n", like ? "?" : "; `creedence --help` lists them");
    return CLI_USAGE;
}

static int run_verb(const struct cli_verb *v, int argc, char **argv, const char *socket_path)
{
    static struct cli c;
    c = (struct cli){.verb = v, .argc = argc, .argv = argv, .socket_path = socket_path};
    int status = v->run(&c);
    client_close(c.client);
    if (fflush(stdout) != 0 || ferror(stdout)) return cli_fail("writing the result failed");
    return status;
}

int main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    setlocale(LC_NUMERIC, "C");
    log_setup("creedence", LOG_LEVEL_WARN);
    signal(SIGPIPE, SIG_IGN);
    const char *socket_path = getenv("CREEDENCE_SOCKET");
    if (!socket_path || !*socket_path) socket_path = "/run/creedence/creedenced.sock";
    if (argc < 2) {
        print_usage(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_usage(stdout);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        version_print("creedence", false);
        return CLI_OK;
    }
    for (const struct cli_verb *const *v = cli_verbs; *v; v++) {
        int words = matches(*v, argc, argv);
        if (words) return run_verb(*v, argc - words, argv + words, socket_path);
    }
    return unknown_verb(argc, argv);
}
