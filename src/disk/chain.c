/* SPDX-License-Identifier: Apache-2.0 */
/* The channels of a whole chain, for one thread. */
#include <assert.h>

#include "disk/disk.h"

int disk_chans_open(struct disk_chans *out, struct layer *const *layers, unsigned count, struct engine *e)
{
    assert(count > 0 && count <= DISK_CHAIN_MAX);
    struct layer_chan *below = NULL;
    out->count = count;
    for (unsigned i = count; i-- > 0;) {
        int ret = layers[i]->ops->chan_open(layers[i], e, below, &out->chan[i]);
        if (ret < 0) {
            for (i++; i < count; i++)
                layers[i]->ops->chan_close(out->chan[i]);
            out->count = 0;
            return ret;
        }
        below = out->chan[i];
    }
    return 0;
}

/* From the leaf down: a layer may still talk to the one below it while it closes. */
void disk_chans_close(struct disk_chans *chans)
{
    for (unsigned i = 0; i < chans->count; i++)
        chans->chan[i]->layer->ops->chan_close(chans->chan[i]);
    chans->count = 0;
}
