/* Calls all that a firmware calls, as the Rust program `proof` in examples/firmware does: the
 * measure of the library's code. */
#include "board.h"
#include "plan.h"
#include "pocketlm.h"

static unsigned char arena[PLM_ARENA_BYTES] __attribute__((aligned(PLM_ARENA_ALIGNMENT)));
static plm_model model;
static plm_session session;
static plm_tokenizer tokenizer;
static plm_sampler sampler;
static plm_choice choice;
static plm_decoder decoder;
static plm_recent window[16];
static uint32_t ids[64];
static uint32_t scratch[PLM_SCRATCH_WORDS(64)];

static void drop(void *context, const char *text, size_t bytes)
{
    (void)context;
    (void)text;
    (void)bytes;
}

static int32_t make(void)
{
    static const plm_sizes sizes = PLM_SIZES;
    const plm_sampling sampling = {
        .seed = 1, .temperature = 0.5f, .top_k = 40, .top_p = 0.9f, .min_p = 0.05f,
        .window = window, .window_count = 16, .repeat = 1.1f,
    };
    int32_t code = plm_open(&model, image, (size_t)(image_end - image));
    code |= plm_session_init_sized(&session, &model, &sizes, arena, sizeof arena, NULL);
    code |= plm_tokenizer_open(&tokenizer, &model);
    code |= plm_sampler_init(&sampler, &sampling);
    return code | plm_decoder_init(&decoder, &tokenizer, true);
}

static int32_t next_token(uint32_t *id)
{
    int32_t code = plm_start(&session, id, 1);
    if (code != PLM_OK) {
        return code;
    }
    while ((code = plm_step(&session, 1000)) == PLM_PENDING) {
    }
    if (code != PLM_OK) {
        return code;
    }
    plm_choice_init(&choice);
    while ((code = plm_sample_step(&sampler, &session, &choice, 100, id)) == PLM_PENDING) {
    }
    return code;
}

#ifdef GENERATE
static int32_t generate(size_t count)
{
    static plm_generation text;
    static const char *const stops[] = {"."};
    const plm_generate_options options = {
        .tokens = 8, .stop_strings = stops, .stop_string_count = 1};
    int32_t code = plm_generate_start(&text, &session, &sampler, &tokenizer, ids, count, &options);
    code |= plm_generate_step(&text, 100, drop, NULL);
    while (code == PLM_OK || code == PLM_PENDING) {
        code = plm_generate_next(&text, drop, NULL);
    }
    return code < PLM_ERROR_NOT_AN_IMAGE ? PLM_OK : code;
}
#endif

int program(void)
{
    static const char prompt[] = "Once upon a time";
    size_t count = 0;
    uint32_t id = 0;
    bool ends = false;
    int32_t code = make();
    code |= plm_encode(&tokenizer, prompt, sizeof prompt - 1, PLM_ADD_SPECIAL, scratch,
                       sizeof scratch / sizeof *scratch, ids, sizeof ids / sizeof *ids, &count);
    code |= plm_feed(&session, ids, count);
    code |= plm_sample(&sampler, &session, &id);
    for (int tokens = 0; tokens < 8 && code == PLM_OK && !ends; tokens++) {
        code |= plm_decode(&decoder, id, drop, NULL);
        code |= next_token(&id);
        code |= plm_ends_text(&tokenizer, id, &ends);
    }
    code |= plm_decode_end(&decoder, drop, NULL);
#ifdef GENERATE
    code |= generate(count);
#endif
    code |= plm_rewind(&session, 1);
    return (code | plm_reset(&session)) == PLM_OK;
}
