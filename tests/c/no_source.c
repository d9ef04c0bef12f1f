/* A library without weight sources refuses what needs one: -Wl,--wrap=program. */
#include "board.h"
#include "plan.h"
#include "pocketlm.h"

int __wrap_program(void);

static int32_t read_nothing(void *context, uint64_t offset, void *buffer, size_t bytes)
{
    (void)context;
    (void)offset;
    (void)buffer;
    (void)bytes;
    return 1;
}

int __wrap_program(void)
{
    static unsigned char arena[PLM_ARENA_BYTES] __attribute__((aligned(PLM_ARENA_ALIGNMENT)));
    static plm_model model;
    static plm_session session;
    const plm_source source = {read_nothing, NULL, NULL};
    plm_limits limits = PLM_LIMITS;
    size_t bytes;
    int right = plm_open(&model, image, (size_t)(image_end - image)) == PLM_OK;
    right &= plm_plan(&model, &limits, &bytes) == PLM_OK && bytes == sizeof arena;
    right &= plm_session_init(&session, &model, &limits, arena, sizeof arena, NULL, &source) ==
             PLM_ERROR_NO_SOURCE;
    limits.weight_buffer = 16384;
    right &= plm_plan(&model, &limits, &bytes) == PLM_ERROR_NO_SOURCE;
    right &= plm_session_init(&session, &model, &limits, arena, sizeof arena, NULL, NULL) ==
             PLM_ERROR_NO_SOURCE;
    right &= plm_open_from(&model, &source, arena, sizeof arena, arena, sizeof arena) ==
             PLM_ERROR_NO_SOURCE;
    print_text("done\n", 5);
    return right;
}
