/* Prints digests of the logits of a fixed sequence of tokens, with every type of keys and values,
 * fed one by one and in slices: the lines that the Rust program `check` in examples/firmware
 * prints. `plan.h` is written by
 *
 *     pocketlm plan story.plm --context 80 --batch 8 --c-header plan.h
 */
#include "board.h"
#include "plan.h"
#include "pocketlm.h"

enum { TOKENS = 72, BUDGET = 1000 };

static unsigned char arena[PLM_ARENA_BYTES] __attribute__((aligned(PLM_ARENA_ALIGNMENT)));
static plm_session session;
static uint32_t tokens[TOKENS];

static void say(const char *text)
{
    size_t bytes = 0;
    while (text[bytes] != '\0') {
        bytes++;
    }
    print_text(text, bytes);
}

static void say_number(uint64_t number, unsigned base, size_t digits)
{
    char text[20];
    size_t at = sizeof text;
    do {
        at--;
        text[at] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number > 0 || sizeof text - at < digits);
    print_text(text + at, sizeof text - at);
}

static int32_t say_digest(void)
{
    float *logits;
    size_t count;
    uint64_t digest = 0;
    int32_t code = plm_logits(&session, &logits, &count);
    if (code == PLM_OK) {
        code = plm_digest(logits, count, &digest);
    }
    say_number(digest, 16, 16);
    say("\n");
    return code;
}

/* Another session in memory that is overwritten. */
static int32_t begin(const plm_model *model, uint32_t kv)
{
    const plm_limits limits = {.context = PLM_CONTEXT, .batch = PLM_BATCH, .kv = kv};
    for (size_t at = 0; at < sizeof arena; at++) {
        arena[at] = 0xff;
    }
    return plm_session_init(&session, model, &limits, arena, sizeof arena, NULL, NULL);
}

static int32_t one_by_one(const char *name)
{
    for (uint32_t index = 0; index < TOKENS; index++) {
        int32_t code = plm_feed(&session, &tokens[index], 1);
        if (code != PLM_OK) {
            return code;
        }
        say("logits ");
        say(name);
        say(" ");
        say_number(index, 10, 1);
        say(" ");
        code = say_digest();
        if (code != PLM_OK) {
            return code;
        }
    }
    return PLM_OK;
}

static int32_t in_slices(const char *name)
{
    int32_t code = plm_start(&session, tokens, TOKENS);
    while (code == PLM_OK || code == PLM_PENDING) {
        code = plm_step(&session, BUDGET);
        if (code == PLM_OK) {
            say("sliced ");
            say(name);
            say(" ");
            return say_digest();
        }
    }
    return code;
}

static int32_t check(const plm_model *model, uint32_t kv)
{
    static const char *const names[] = {"f32", "f16", "bf16", "q8"};
    const plm_limits limits = {.context = PLM_CONTEXT, .batch = PLM_BATCH, .kv = kv};
    size_t bytes = 0;
    int32_t code = plm_plan(model, &limits, &bytes);
    say("arena ");
    say(names[kv]);
    say(" ");
    say_number(bytes, 10, 1);
    say("\n");
    if (code == PLM_OK) {
        code = begin(model, kv);
    }
    if (code == PLM_OK) {
        code = one_by_one(names[kv]);
    }
    if (code == PLM_OK) {
        code = begin(model, kv);
    }
    return code == PLM_OK ? in_slices(names[kv]) : code;
}

int program(void)
{
    plm_model model;
    int32_t code = plm_open_expected(&model, image, (size_t)(image_end - image),
                                     PLM_IMAGE_CHECKSUM);
    if (code == PLM_OK) {
        say("image ");
        say_number(PLM_IMAGE_CHECKSUM, 16, 8);
        say("\n");
    }
    for (uint64_t index = 0; index < TOKENS; index++) {
        tokens[index] = (uint32_t)((2 + index * (31 + 7 * index)) % PLM_VOCAB_SIZE);
    }
    for (uint32_t kv = PLM_KV_F32; kv <= PLM_KV_Q8 && code == PLM_OK; kv++) {
        code = check(&model, kv);
    }
    if (code != PLM_OK) {
        say("error ");
        say_number((uint64_t)code, 10, 1);
        say("\n");
    }
    return code == PLM_OK;
}
