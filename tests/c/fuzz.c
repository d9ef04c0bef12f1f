/* Calls the functions of pocketlm in random order with random arguments: right ones, NULL,
 * misaligned, too short, handles of another kind, copied and unopened handles. Each call must
 * return one of the known numbers; the sanitizers must have nothing to say.
 *
 *     fuzz IMAGE GRAMMAR CALLS SEED
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "pocketlm.h"

enum { SLOTS = 16, KINDS = 8, ARENA = 1 << 16, RESIDENT = 1 << 16, SAVED = 1 << 16, IDS = 64 };
enum { MODEL, SESSION, SAMPLER, CHOICE, TOKENIZER, DECODER, CONSTRAINT, GENERATION };

/* Memory that any handle fits. What kind a slot is for follows from its number. */
union slot {
    plm_model model;
    plm_session session;
    plm_sampler sampler;
    plm_choice choice;
    plm_tokenizer tokenizer;
    plm_decoder decoder;
    plm_constraint constraint;
    plm_generation generation;
    uint64_t words[PLM_GENERATION_BYTES / 8 + 2];
};

static union slot slots[SLOTS + 1];
/* Each slot has its own memory, as sessions must. */
static struct {
    unsigned char arena[ARENA] __attribute__((aligned(64)));
    unsigned char resident[RESIDENT] __attribute__((aligned(64)));
    plm_recent window[8];
    unsigned char after[64];
} lent[SLOTS + 1];

static unsigned char *image, *damaged, *grammar, *changed, saved[SAVED];
static size_t image_bytes, grammar_bytes, saved_bytes, saved_at;
static uint32_t checksum;
static const uint32_t prompt[IDS] = {256, 72, 101, 108, 108, 111, 3, 9};
static const char *const stops[] = {"a", "\xc3\xa4", "the end", "", "\xff"};
static const plm_bias biases[] = {{5, -1.0f}, {7, 100.0f}, {9999, 1.0f}};
static unsigned depth;

static uint64_t state;

static uint32_t next(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    uint64_t mixed = (state ^ (state >> 33)) * 0xff51afd7ed558ccdu;
    return (uint32_t)(mixed >> 32);
}

static uint32_t below(uint32_t end)
{
    return next() % end;
}

static bool one_in(uint32_t count)
{
    return below(count) == 0;
}

/* A pointer to a handle: mostly of the right kind. `home` gets the number of its slot. */
static void *handle(uint32_t kind, uint32_t *home)
{
    uint32_t other = 0;
    uint32_t *at = home != NULL ? home : &other;
    *at = kind + KINDS * below(SLOTS / KINDS);
    switch (below(40)) {
    case 0:
        return NULL;
    case 1:
        return (char *)&slots[*at] + 1 + below(7);
    case 2:
        *at = below(SLOTS);
        return &slots[*at];
    case 3:
        /* A copy; what was in that slot is not used any more. */
        memcpy(&slots[SLOTS], &slots[*at], sizeof slots[SLOTS]);
        *at = SLOTS;
        return &slots[SLOTS];
    default:
        return &slots[*at];
    }
}

/* A pointer to something else: mostly right. */
static void *place(void *right)
{
    switch (below(50)) {
    case 0:
        return NULL;
    case 1:
        return (char *)right + 1;
    default:
        return right;
    }
}

/* A length: mostly right. */
static size_t length(size_t right)
{
    switch (below(50)) {
    case 0:
        return 0;
    case 1:
        return right / 2;
    case 2:
        return right > 0 ? right - 1 : 0;
    case 3:
        return SIZE_MAX / (1u + below(5));
    default:
        return right;
    }
}

/* Too long lengths are for pointers whose memory is not looked at: only where that is refused. */
static size_t no_longer(size_t right)
{
    size_t found = length(right);
    return found <= right || found > PTRDIFF_MAX ? found : right;
}

static void call(void);

/* A callback may call what it likes. */
static void nested(void)
{
    if (depth < 2 && one_in(20)) {
        depth++;
        call();
        depth--;
    }
}

static void write_text(void *context, const char *text, size_t bytes)
{
    static volatile unsigned sum;
    if (context != &state) {
        abort();
    }
    for (size_t at = 0; at < bytes; at++) {
        sum += (unsigned char)text[at];
    }
    nested();
}

static int32_t save(void *context, const void *data, size_t bytes)
{
    (void)context;
    nested();
    if (one_in(200) || bytes > SAVED - saved_at) {
        return -1;
    }
    memcpy(saved + saved_at, data, bytes);
    saved_at += bytes;
    return 0;
}

static int32_t restore(void *context, void *data, size_t bytes)
{
    (void)context;
    nested();
    if (one_in(500) || bytes > saved_bytes - saved_at) {
        return 7;
    }
    memcpy(data, saved + saved_at, bytes);
    saved_at += bytes;
    return 0;
}

static int32_t read_image(void *context, uint64_t offset, void *buffer, size_t bytes)
{
    (void)context;
    nested();
    if (one_in(2000) || offset > image_bytes || bytes > image_bytes - (size_t)offset) {
        return 1;
    }
    memcpy(buffer, image + offset, bytes);
    return 0;
}

static int32_t read_image_while(void *context, uint64_t offset, void *buffer, size_t bytes,
                                void (*work)(void *), void *argument)
{
    if (!one_in(500)) {
        work(argument);
    }
    return read_image(context, offset, buffer, bytes);
}

static void run_twice(void *context, void (*job)(void *), void *argument)
{
    (void)context;
    job(argument);
    job(argument);
}

static plm_limits limits(void)
{
    static const uint32_t few[] = {1, 2, 7, 8, 16, 40, 0, UINT32_MAX};
    plm_limits made = {few[below(one_in(9) ? 8 : 6)], few[below(one_in(9) ? 8 : 5)],
                       below(one_in(20) ? 5 : 4), 0};
    if (one_in(2)) {
        made.weight_buffer = one_in(10) ? below(1 << 20) : 8192;
    }
    return made;
}

static void see(void *context, const void *data, size_t bytes)
{
    static volatile unsigned sum;
    (void)context;
    if (bytes > 0) {
        sum += ((const unsigned char *)data)[bytes - 1];
    }
    nested();
}

static int32_t judge(void *context)
{
    (void)context;
    nested();
    return one_in(10);
}

static int32_t open_model(void)
{
    void *model = handle(MODEL, NULL);
    if (one_in(8)) {
        size_t at = below((uint32_t)image_bytes);
        damaged[at] = (unsigned char)(damaged[at] ^ (1u << below(8)));
        int32_t code = plm_open(model, damaged, image_bytes);
        damaged[at] = image[at];
        if (code == PLM_OK) {
            abort();
        }
        return code;
    }
    if (one_in(3)) {
        plm_verify check = {one_in(20) ? NULL : see, one_in(20) ? NULL : judge, NULL};
        return plm_open_verified(model, place(image), no_longer(image_bytes), place(&check));
    }
    if (one_in(2)) {
        return plm_open(model, place(image), no_longer(image_bytes));
    }
    return plm_open_expected(model, place(image), no_longer(image_bytes),
                             one_in(4) ? next() : checksum);
}

static int32_t open_from(void)
{
    uint32_t at = 0;
    void *model = handle(MODEL, &at);
    plm_source source = {one_in(20) ? NULL : read_image, one_in(2) ? NULL : read_image_while, NULL};
    /* Another slot's arena is in use by its session: the scratch is this one's own. */
    static unsigned char scratch[1 << 14] __attribute__((aligned(64)));
    if (one_in(3)) {
        plm_verify check = {one_in(20) ? NULL : see, one_in(20) ? NULL : judge, NULL};
        return plm_open_verified_from(model, place(&source), place(lent[at].resident),
                                      no_longer(RESIDENT), place(scratch),
                                      no_longer(sizeof scratch), place(&check));
    }
    return plm_open_from(model, place(&source), place(lent[at].resident), no_longer(RESIDENT),
                         place(scratch), no_longer(sizeof scratch));
}

static int32_t init_session(void)
{
    uint32_t at = 0;
    void *session = handle(SESSION, &at);
    plm_limits made = limits();
    plm_workers workers = {one_in(20) ? NULL : run_twice, NULL, below(4)};
    plm_source source = {one_in(20) ? NULL : read_image, one_in(2) ? NULL : read_image_while, NULL};
    return plm_session_init(session, handle(MODEL, NULL), place(&made), place(lent[at].arena),
                            no_longer(ARENA), one_in(2) ? NULL : place(&workers),
                            one_in(2) ? NULL : place(&source));
}

/* Wrong numbers give wrong logits, and nothing worse. */
static int32_t init_sized_session(void)
{
    uint32_t at = 0;
    void *session = handle(SESSION, &at);
    plm_sizes made = PLM_SIZES;
    plm_workers workers = {one_in(20) ? NULL : run_twice, NULL, below(4)};
    if (one_in(2)) {
        static const size_t wrong[] = {0, 1, 63, 64, 4096, ARENA, SIZE_MAX / 2, SIZE_MAX};
        size_t *numbers = one_in(2) ? &made.buffers[0][0] : made.parts;
        size_t count = numbers == made.parts ? PLM_PARTS : 2 * PLM_BUFFERS;
        for (uint32_t left = below(3); left > 0; left--) {
            numbers[below((uint32_t)count)] = wrong[below(8)];
        }
    }
    if (one_in(4)) {
        made.limits = limits();
    }
    if (one_in(20)) {
        made.checksum = next();
    }
    return plm_session_init_sized(session, handle(MODEL, NULL), place(&made),
                                  place(lent[at].arena), no_longer(ARENA),
                                  one_in(2) ? NULL : place(&workers));
}

static int32_t init_sampler(void)
{
    static const float numbers[] = {0.0f, 0.5f, 0.9f, 1.0f, -1.0f, 1e30f, 1e-40f};
    uint32_t at = 0;
    void *sampler = handle(SAMPLER, &at);
    plm_sampling made = {
        .seed = next(), .temperature = numbers[below(7)], .top_k = below(40),
        .top_p = numbers[below(7)], .min_p = numbers[below(7)], .repeat = numbers[below(7)],
        .frequency = numbers[below(7)], .presence = numbers[below(7)],
    };
    if (one_in(3)) {
        made.bias = place((void *)(uintptr_t)biases);
        made.bias_count = no_longer(one_in(9) ? 3 : 2);
    }
    if (one_in(2)) {
        made.window = place(lent[at].window);
        made.window_count = no_longer(8);
    }
    return plm_sampler_init(sampler, one_in(9) ? NULL : place(&made));
}

static int32_t logits(void)
{
    float *numbers = NULL;
    size_t count = 0;
    int32_t code = plm_logits(handle(SESSION, NULL), place(&numbers), place(&count));
    if (code == PLM_OK) {
        uint64_t digest = 0;
        if (plm_digest(numbers, count, &digest) != PLM_OK) {
            abort();
        }
        for (size_t index = 0; index < count && one_in(3); index++) {
            static const uint32_t bits[] = {0x7fc00000, 0x7f800000, 0xff800000, 0, 0x80000000};
            memcpy(&numbers[index], &bits[below(5)], sizeof *numbers);
        }
    }
    return code;
}

static int32_t tokens(void)
{
    const uint32_t *ids = NULL;
    size_t count = 0;
    int32_t code = plm_tokens(handle(SESSION, NULL), place(&ids), place(&count));
    for (size_t index = 0; code == PLM_OK && index < count; index++) {
        /* No model has this token. */
        if (ids[index] == UINT32_MAX) {
            abort();
        }
    }
    return code;
}

static int32_t encode(void)
{
    static char text[IDS];
    static uint32_t ids[IDS + 1], scratch[PLM_SCRATCH_WORDS(IDS) + 1];
    size_t count = 0;
    for (size_t at = 0; at < sizeof text; at++) {
        text[at] = (char)(one_in(50) ? below(256) : 32 + below(95));
    }
    return plm_encode(handle(TOKENIZER, NULL), one_in(50) ? NULL : text,
                      no_longer(below(IDS)), below(one_in(20) ? 9 : 4),
                      place(scratch), no_longer(PLM_SCRATCH_WORDS(IDS)),
                      place(one_in(50) ? scratch : ids), no_longer(IDS), place(&count));
}

static int32_t start_generation(void)
{
    plm_generate_options options = {.tokens = below(6), .keep_special = one_in(2)};
    if (one_in(2)) {
        options.stop_strings = place((void *)(uintptr_t)stops);
        options.stop_string_count = no_longer(one_in(9) ? 5 : below(4));
    }
    if (one_in(2)) {
        options.constraint = handle(CONSTRAINT, NULL);
    }
    return plm_generate_start(handle(GENERATION, NULL), handle(SESSION, NULL),
                              handle(SAMPLER, NULL), handle(TOKENIZER, NULL),
                              place((void *)(uintptr_t)prompt), no_longer(1 + below(8)),
                              one_in(2) ? NULL : place(&options));
}

static int32_t open_constraint(void)
{
    void *constraint = handle(CONSTRAINT, NULL);
    if (one_in(4)) {
        size_t at = below((uint32_t)grammar_bytes);
        changed[at] = (unsigned char)(changed[at] ^ (1u << below(8)));
        int32_t code =
            plm_constraint_open(constraint, handle(TOKENIZER, NULL), changed, grammar_bytes);
        changed[at] = grammar[at];
        if (code == PLM_OK) {
            abort();
        }
        return code;
    }
    return plm_constraint_open(constraint, handle(TOKENIZER, NULL), place(grammar),
                               no_longer(grammar_bytes));
}

static int32_t save_session(void)
{
    size_t before = saved_bytes;
    if (depth > 0) {
        /* The buffer is in use. */
        return plm_save(handle(SESSION, NULL), NULL, NULL);
    }
    saved_at = 0;
    saved_bytes = 0;
    int32_t code = plm_save(handle(SESSION, NULL), one_in(50) ? NULL : save, NULL);
    saved_bytes = code == PLM_OK ? saved_at : before;
    return code;
}

static int32_t restore_session(void)
{
    if (depth > 0) {
        return plm_restore(handle(SESSION, NULL), NULL, NULL);
    }
    saved_at = 0;
    size_t at = below(SAVED);
    unsigned char before = saved[at];
    bool damage = one_in(3) && at < saved_bytes;
    saved[at] = (unsigned char)(saved[at] ^ (damage ? 0x10 : 0));
    int32_t code = plm_restore(handle(SESSION, NULL), one_in(50) ? NULL : restore, NULL);
    saved[at] = before;
    if (damage && code == PLM_OK) {
        abort();
    }
    return code;
}

static uint32_t budget(void)
{
    return one_in(4) ? UINT32_MAX : below(2000);
}

static const char *const names[] = {
    "open", "open_from", "session_init", "sampler_init", "tokenizer_open", "decoder_init",
    "choice_init", "constraint_open", "generate_start", "info", "plan", "feed", "start", "step", "abort", "logits",
    "length", "rewind", "reset", "snapshot_bytes", "save", "restore", "sample", "sample_step",
    "accept", "encode", "ends_text", "decode", "decode_end", "generate_next", "generate_step",
    "generate_stop", "generate_last", "tokens", "constraint_reset", "constraint_allows",
    "constraint_accept", "constraint_is_complete", "constraint_is_at_end", "constraint_mask",
};
enum { FUNCTIONS = sizeof names / sizeof *names, MAKERS = 9, TEXT = 24, CONSTRAINTS = 34 };
static unsigned long calls[FUNCTIONS], successes[FUNCTIONS];

/* One of those that make a handle. */
static int32_t make(uint32_t function)
{
    switch (function) {
    case 0:
        return open_model();
    case 1:
        return open_from();
    case 2:
        return one_in(2) ? init_session() : init_sized_session();
    case 3:
        return init_sampler();
    case 4:
        return plm_tokenizer_open(handle(TOKENIZER, NULL), handle(MODEL, NULL));
    case 5:
        return plm_decoder_init(handle(DECODER, NULL), handle(TOKENIZER, NULL), one_in(2));
    case 6:
        return plm_choice_init(handle(CHOICE, NULL));
    case 7:
        return open_constraint();
    default:
        return start_generation();
    }
}

static int32_t use_session(uint32_t function)
{
    size_t number = 0;
    uint32_t id = 0;
    plm_arena_parts parts;
    plm_limits made = limits();
    plm_model_info info;
    uint32_t ids[8];
    for (size_t at = 0; at < 8; at++) {
        ids[at] = below(one_in(99) ? UINT32_MAX : 258);
    }
    switch (function) {
    case 9:
        return plm_info(handle(MODEL, NULL), place(&info));
    case 10:
        return one_in(2) ? plm_plan(handle(MODEL, NULL), place(&made), place(&number))
                         : plm_plan_parts(handle(MODEL, NULL), place(&made), place(&parts));
    case 11:
        return plm_feed(handle(SESSION, NULL), place(ids), no_longer(1 + below(7)));
    case 12:
        return plm_start(handle(SESSION, NULL), place(ids), no_longer(1 + below(7)));
    case 13:
        return plm_step(handle(SESSION, NULL), budget());
    case 14:
        return plm_abort(handle(SESSION, NULL));
    case 15:
        return logits();
    case 16:
        return plm_length(handle(SESSION, NULL), place(&number));
    case 17:
        return plm_rewind(handle(SESSION, NULL), below(8));
    case 18:
        return plm_reset(handle(SESSION, NULL));
    case 19:
        return plm_snapshot_bytes(handle(SESSION, NULL), next(), place(&number));
    case 20:
        return save_session();
    case 21:
        return restore_session();
    case 22:
        return plm_sample(handle(SAMPLER, NULL), handle(SESSION, NULL), place(&id));
    default:
        return plm_sample_step(handle(SAMPLER, NULL), handle(SESSION, NULL), handle(CHOICE, NULL),
                               budget(), place(&id));
    }
}

static int32_t use_text(uint32_t function)
{
    uint32_t id = below(one_in(99) ? UINT32_MAX : 258);
    /* A bool may lie anywhere, so the pointer that is one byte off is right as well. */
    bool ends[2] = {false, false};
    void (*write)(void *, const char *, size_t) = one_in(50) ? NULL : write_text;
    switch (function) {
    case 24:
        return plm_accept(handle(SAMPLER, NULL), id);
    case 25:
        return encode();
    case 26:
        return plm_ends_text(handle(TOKENIZER, NULL), id, place(ends));
    case 27:
        return plm_decode(handle(DECODER, NULL), id, write, &state);
    case 28:
        return plm_decode_end(handle(DECODER, NULL), write, &state);
    case 29:
        return plm_generate_next(handle(GENERATION, NULL), write, &state);
    case 30:
        return plm_generate_step(handle(GENERATION, NULL), budget(), write, &state);
    case 31:
        return plm_generate_stop(handle(GENERATION, NULL), write, &state);
    case 32:
        return plm_generate_last(handle(GENERATION, NULL), place(&id));
    default:
        return tokens();
    }
}

static int32_t use_constraint(uint32_t function)
{
    static float numbers[300];
    uint32_t id = below(one_in(99) ? UINT32_MAX : 258);
    bool answer[2] = {false, false};
    switch (function) {
    case 34:
        return plm_constraint_reset(handle(CONSTRAINT, NULL));
    case 35:
        return plm_constraint_allows(handle(CONSTRAINT, NULL), id, place(answer));
    case 36:
        return plm_constraint_accept(handle(CONSTRAINT, NULL), id, place(answer));
    case 37:
        return plm_constraint_is_complete(handle(CONSTRAINT, NULL), place(answer));
    case 38:
        return plm_constraint_is_at_end(handle(CONSTRAINT, NULL), place(answer));
    default:
        return plm_constraint_mask(handle(CONSTRAINT, NULL), place(numbers), no_longer(300));
    }
}

static bool is_known(int32_t code)
{
    return strcmp(plm_error_text(code), "unknown number") != 0;
}

static void call(void)
{
    uint32_t function = below(FUNCTIONS);
    /* Handles are made now and then, and not in a callback: they may be in use. */
    if (function < MAKERS && (depth > 0 || !one_in(3))) {
        function = MAKERS + below(FUNCTIONS - MAKERS);
    }
    int32_t code = function < MAKERS        ? make(function)
                   : function < TEXT        ? use_session(function)
                   : function < CONSTRAINTS ? use_text(function)
                                            : use_constraint(function);
    calls[function]++;
    successes[function] += code < 100;
    if (!is_known(code)) {
        fprintf(stderr, "plm_%s returned %d\n", names[function], (int)code);
        abort();
    }
}

/* The bytes of a file, twice, each with one more byte for the misaligned pointer. */
static size_t read_file(const char *path, unsigned char *copies[2])
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(2);
    }
    size_t bytes = (size_t)ftell(file), room = bytes / 64 * 64 + 128;
    rewind(file);
    for (int copy = 0; copy < 2; copy++) {
        copies[copy] = aligned_alloc(64, room);
        if (copies[copy] == NULL) {
            exit(2);
        }
        memset(copies[copy], 0, room);
    }
    if (fread(copies[0], 1, bytes, file) != bytes) {
        perror(path);
        exit(2);
    }
    memcpy(copies[1], copies[0], bytes);
    fclose(file);
    return bytes;
}

int main(int argc, char **argv)
{
    unsigned char *images[2], *grammars[2];
    if (argc != 5) {
        return 2;
    }
    image_bytes = read_file(argv[1], images);
    grammar_bytes = read_file(argv[2], grammars);
    image = images[0];
    damaged = images[1];
    grammar = grammars[0];
    changed = grammars[1];
    memcpy(&checksum, image + 12, sizeof checksum);
    unsigned long count = strtoul(argv[3], NULL, 10);
    state = strtoul(argv[4], NULL, 10);
    for (unsigned long done = 0; done < count; done++) {
        call();
    }
    unsigned long all = 0;
    for (size_t function = 0; function < FUNCTIONS; function++) {
        printf("%s %lu %lu\n", names[function], calls[function], successes[function]);
        all += calls[function];
    }
    printf("calls %lu\n", all);
    free(image);
    free(damaged);
    free(grammar);
    free(changed);
    return 0;
}
