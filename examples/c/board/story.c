/* Tells the story on a board, in slices between which other work can be done. */
#include "board.h"
#include "plan.h"
#include "pocketlm.h"

static const char PROMPT[] = "Once upon a time";

static unsigned char arena[PLM_ARENA_BYTES] __attribute__((aligned(PLM_ARENA_ALIGNMENT)));
static plm_session session;
static plm_sampler sampler;
static plm_generation text;

static void print(void *context, const char *bytes, size_t count)
{
    (void)context;
    print_text(bytes, count);
}

static int32_t begin(void)
{
    plm_model model;
    plm_tokenizer tokenizer;
    static uint32_t ids[32], scratch[PLM_SCRATCH_WORDS(sizeof PROMPT)];
    static const plm_sizes sizes = PLM_SIZES;
    const plm_sampling sampling = {.seed = 33, .temperature = 0.5f, .top_p = 0.9f};
    size_t count, image_bytes = (size_t)(image_end - image);

    int32_t code = plm_open_expected(&model, image, image_bytes, PLM_IMAGE_CHECKSUM);
    if (code == PLM_OK) {
        code = plm_tokenizer_open(&tokenizer, &model);
    }
    if (code == PLM_OK) {
        code = plm_session_init_sized(&session, &model, &sizes, arena, sizeof arena, NULL);
    }
    if (code == PLM_OK) {
        code = plm_sampler_init(&sampler, &sampling);
    }
    if (code == PLM_OK) {
        code = plm_encode(&tokenizer, PROMPT, sizeof PROMPT - 1, PLM_ADD_SPECIAL, scratch,
                          sizeof scratch / sizeof *scratch, ids, sizeof ids / sizeof *ids, &count);
    }
    if (code == PLM_OK) {
        code = plm_generate_start(&text, &session, &sampler, &tokenizer, ids, count, NULL);
    }
    return code;
}

static void print_error(int32_t code)
{
    const char *sentence = plm_error_text(code);
    size_t bytes = 0;
    while (sentence[bytes] != '\0') {
        bytes++;
    }
    print_text(sentence, bytes);
}

int program(void)
{
    int32_t code = begin();
    print_text(PROMPT, sizeof PROMPT - 1);
    while (code == PLM_OK || code == PLM_PENDING) {
        code = plm_generate_step(&text, 1000, print, NULL);
        /* Feed the watchdog here. */
    }
    if (code >= PLM_ERROR_NOT_AN_IMAGE) {
        print_error(code);
    }
    print_text("\n", 1);
    return code < PLM_ERROR_NOT_AN_IMAGE;
}
