/* pocketlm plan: story.plm
 * Written by `pocketlm plan --c-header`: do not edit. */
#ifndef PLM_IMAGE_CHECKSUM

/* The image: plm_open_expected refuses any other. */
#define PLM_IMAGE_CHECKSUM 0x67849400u
#define PLM_IMAGE_BYTES 1491392u
#define PLM_IMAGE_ALIGNMENT 64u
#define PLM_RESIDENT_BYTES 16064u
#define PLM_VOCAB_SIZE 1024u

/* The session. */
#define PLM_CONTEXT 256u
#define PLM_BATCH 8u
#define PLM_KV PLM_KV_F32
#define PLM_LIMITS {PLM_CONTEXT, PLM_BATCH, PLM_KV, 0}
#define PLM_ARENA_BYTES 387840u
#define PLM_ARENA_ALIGNMENT 64u
#define PLM_SIZES \
    {PLM_IMAGE_CHECKSUM, PLM_LIMITS, \
     {2048, 6144, 6144, 24576, 4096, 6912, 2048, 0, 335872}, \
     {{0, 0}, {0, 1536}, {1536, 3072}, {3072, 4096}, {4096, 4608}, \
      {4608, 5120}, {5120, 6144}, {3072, 4096}, {5120, 6144}, {6144, 9216}, \
      {3072, 6144}, {6144, 9216}, {9216, 10240}, {3072, 3072}, {3072, 3072}}}

#endif
