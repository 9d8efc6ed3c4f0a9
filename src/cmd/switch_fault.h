/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last word of a switch that dies of a fault: the name of the thread that made it, and of the card or port that it was at
 * ("" if at none). The daemon can then leave out a card whose guest ends the switch again and again (control/network.h).
 *
 *     {"method": "fault", "params": {"thread": "NAME", "port": "NAME"}}
 */
#ifndef CMD_SWITCH_FAULT_H
#define CMD_SWITCH_FAULT_H

/* Once, before other handlers of faults (guest/mapping.h's passes on what is not its own). Where somebody has a handler
 * already (a sanitizer, say) that stays alone. */
void fault_init(void);
/* Whom to tell; -1: nobody. The socket is not taken over. */
void fault_tell(int sock);

#endif
