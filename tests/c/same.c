/* What the functions of pocketlm come to: `same IMAGE GRAMMAR` ends with 0 if all of it is right. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "pocketlm.h"

#define MUST(what) ((what) ? (void)0 : fail(#what, __LINE__))
#define OK(call) MUST((call) == PLM_OK)

enum { ARENA = 1 << 20, PROMPT = 6 };

static const uint32_t prompt[PROMPT] = {2, 17, 40, 5, 7, 600};
static unsigned char arenas[2][ARENA] __attribute__((aligned(64)));
static unsigned char resident[1 << 15] __attribute__((aligned(64)));
static unsigned char *image, snapshot[1 << 20];
static size_t image_bytes, snapshot_bytes, at;
static unsigned reads, overlapped, helped;

static void fail(const char *what, int line)
{
    fprintf(stderr, "line %d: %s\n", line, what);
    exit(EXIT_FAILURE);
}

static int32_t read_image(void *context, uint64_t offset, void *buffer, size_t bytes)
{
    MUST(context == &reads && offset <= image_bytes && bytes <= image_bytes - offset);
    memcpy(buffer, image + offset, bytes);
    reads++;
    return 0;
}

static int32_t read_image_while(void *context, uint64_t offset, void *buffer, size_t bytes,
                                void (*work)(void *), void *argument)
{
    work(argument);
    overlapped++;
    return read_image(context, offset, buffer, bytes);
}

struct job {
    void (*job)(void *);
    void *argument;
};

static void *help(void *job)
{
    const struct job *given = job;
    given->job(given->argument);
    return NULL;
}

/* Two threads, the second one started for each job. */
static void run(void *context, void (*job)(void *), void *argument)
{
    struct job given = {job, argument};
    pthread_t thread;
    MUST(context == &helped && pthread_create(&thread, NULL, help, &given) == 0);
    job(argument);
    pthread_join(thread, NULL);
    helped++;
}

static int32_t save(void *context, const void *data, size_t bytes)
{
    MUST(context == NULL && bytes <= sizeof snapshot - at);
    memcpy(snapshot + at, data, bytes);
    at += bytes;
    return 0;
}

static int32_t restore(void *context, void *data, size_t bytes)
{
    MUST(context == NULL);
    if (bytes > snapshot_bytes - at) {
        return 1;
    }
    memcpy(data, snapshot + at, bytes);
    at += bytes;
    return 0;
}

/* Collects text. */
struct text {
    char bytes[2000];
    size_t length;
};

static void collect(void *context, const char *bytes, size_t count)
{
    struct text *text = context;
    MUST(count < sizeof text->bytes - text->length);
    memcpy(text->bytes + text->length, bytes, count);
    text->length += count;
}

static uint64_t digest(plm_session *session)
{
    float *logits;
    size_t count;
    uint64_t value;
    OK(plm_logits(session, &logits, &count));
    OK(plm_digest(logits, count, &value));
    return value;
}

static const plm_limits limits = {.context = 64, .batch = 4, .kv = PLM_KV_Q8};

static void init(plm_session *session, const plm_model *model, size_t arena)
{
    size_t bytes;
    OK(plm_plan(model, &limits, &bytes));
    OK(plm_session_init(session, model, &limits, arenas[arena], bytes, NULL, NULL));
    MUST(plm_session_init(session, model, &limits, arenas[arena], bytes - 1, NULL, NULL) ==
         PLM_ERROR_ARENA_TOO_SMALL);
    OK(plm_session_init(session, model, &limits, arenas[arena], bytes, NULL, NULL));
}

/* The parts of an arena are all of it. */
static void parts_of_an_arena(const plm_model *model)
{
    plm_arena_parts parts;
    size_t bytes, sum = 0;
    OK(plm_plan(model, &limits, &bytes));
    OK(plm_plan_parts(model, &limits, &parts));
    MUST(sizeof parts == 9 * sizeof sum);
    for (const size_t *part = &parts.tokens; part <= &parts.cache; part++) {
        sum += *part;
    }
    MUST(sum == bytes);
    MUST(parts.tokens == 8 * limits.context && parts.weights == 0 && parts.cache > sum / 4);
    MUST(plm_plan_parts(model, NULL, &parts) == PLM_ERROR_NULL);
    MUST(plm_plan_parts(model, &(plm_limits){.batch = 1}, &parts) == PLM_ERROR_LIMITS);
}

/* Slices, cores and a source give the bits of one call. */
static uint64_t the_same_bits(const plm_model *model)
{
    plm_session session, other;
    init(&session, model, 0);
    OK(plm_feed(&session, prompt, PROMPT));
    uint64_t expected = digest(&session);

    OK(plm_rewind(&session, 4));
    OK(plm_start(&session, prompt + 2, 4));
    MUST(plm_feed(&session, prompt, 1) == PLM_ERROR_BUSY);
    unsigned steps = 1;
    while (plm_step(&session, 100) == PLM_PENDING) {
        steps++;
    }
    MUST(steps > 10 && digest(&session) == expected);

    const plm_workers workers = {run, &helped, 2};
    OK(plm_session_init(&other, model, &limits, arenas[1], ARENA, &workers, NULL));
    OK(plm_feed(&other, prompt, PROMPT));
    MUST(digest(&other) == expected && helped > 10);

    plm_sizes sizes = PLM_SIZES;
    OK(plm_session_init_sized(&other, model, &sizes, arenas[1], PLM_ARENA_BYTES, NULL));
    OK(plm_feed(&other, prompt, PROMPT));
    MUST(digest(&other) == expected);
    MUST(plm_session_init_sized(&other, model, &sizes, arenas[1], PLM_ARENA_BYTES - 1, NULL) ==
         PLM_ERROR_ARENA_TOO_SMALL);
    sizes.checksum++;
    MUST(plm_session_init_sized(&other, model, &sizes, arenas[1], PLM_ARENA_BYTES, NULL) ==
         PLM_ERROR_FOREIGN_PLAN);

    plm_model elsewhere;
    plm_source source = {read_image, NULL, &reads};
    plm_limits buffered = limits;
    buffered.weight_buffer = 16384;
    OK(plm_open_from(&elsewhere, &source, resident, sizeof resident, arenas[1], ARENA));
    MUST(plm_session_init(&other, &elsewhere, &buffered, arenas[1], ARENA, NULL, NULL) ==
         PLM_ERROR_NOT_MAPPED);
    source.read_while = read_image_while;
    OK(plm_session_init(&other, &elsewhere, &buffered, arenas[1], ARENA, NULL, &source));
    unsigned before = reads;
    OK(plm_feed(&other, prompt, PROMPT));
    MUST(digest(&other) == expected && reads > before && overlapped > 0);
    return expected;
}

/* A context goes on after a snapshot. */
static void snapshots(const plm_model *model)
{
    plm_session session, other;
    size_t most, length;
    const uint32_t *tokens;
    init(&session, model, 0);
    init(&other, model, 1);
    OK(plm_feed(&session, prompt, PROMPT - 1));
    OK(plm_snapshot_bytes(&session, PROMPT - 1, &most));
    at = 0;
    OK(plm_save(&session, save, NULL));
    snapshot_bytes = at;
    MUST(at <= most);
    at = 0;
    OK(plm_restore(&other, restore, NULL));
    OK(plm_length(&other, &length));
    MUST(length == PROMPT - 1);
    OK(plm_tokens(&other, &tokens, &length));
    MUST(length == PROMPT - 1 && memcmp(tokens, prompt, length * sizeof *tokens) == 0);
    OK(plm_feed(&session, prompt + PROMPT - 1, 1));
    OK(plm_feed(&other, prompt + PROMPT - 1, 1));
    MUST(digest(&session) == digest(&other));
    snapshot[100] ^= 1;
    at = 0;
    MUST(plm_restore(&other, restore, NULL) == PLM_ERROR_SNAPSHOT_DAMAGED);
}

/* A choice in slices is the choice of one call; text becomes ids and comes back. */
static void choices_and_text(const plm_model *model, const plm_tokenizer *tokenizer)
{
    static const char said[] = "One day, a girl";
    plm_recent window[8];
    const plm_sampling sampling = {
        .seed = 7, .temperature = 0.9f, .top_k = 50, .window = window, .window_count = 8,
        .repeat = 1.2f,
    };
    plm_session session;
    plm_sampler sampler;
    plm_choice choice;
    uint32_t ids[2], calls = 0;
    init(&session, model, 0);
    for (int sliced = 0; sliced < 2; sliced++) {
        OK(plm_reset(&session));
        OK(plm_feed(&session, prompt, PROMPT));
        OK(plm_sampler_init(&sampler, &sampling));
        OK(plm_accept(&sampler, 17));
        OK(plm_choice_init(&choice));
        if (!sliced) {
            OK(plm_sample(&sampler, &session, &ids[0]));
        }
        while (sliced && plm_sample_step(&sampler, &session, &choice, 1, &ids[1]) == PLM_PENDING) {
            calls++;
        }
    }
    MUST(ids[0] == ids[1] && calls > 5);

    uint32_t tokens[32], scratch[PLM_SCRATCH_WORDS(sizeof said)];
    size_t count, needed;
    OK(plm_encode(tokenizer, said, sizeof said - 1, 0, scratch, sizeof scratch / 4, tokens, 32,
                  &count));
    MUST(plm_encode(tokenizer, said, sizeof said - 1, 0, scratch, sizeof scratch / 4, tokens,
                    1, &needed) == PLM_ERROR_OUTPUT_TOO_SMALL && needed == count);
    OK(plm_encode(tokenizer, said, sizeof said - 1, 0, scratch, sizeof scratch / 4, tokens, 32,
                  &count));
    plm_decoder decoder;
    struct text text = {.length = 0};
    OK(plm_decoder_init(&decoder, tokenizer, true));
    for (size_t index = 0; index < count; index++) {
        OK(plm_decode(&decoder, tokens[index], collect, &text));
    }
    OK(plm_decode_end(&decoder, collect, &text));
    MUST(text.length == sizeof said - 1 && memcmp(text.bytes, said, text.length) == 0);
}

/* Memory that a generation would overwrite while it is in use is refused. */
static void overlaps(const plm_model *model, const plm_tokenizer *tokenizer)
{
    static union {
        plm_generation generation;
        plm_session session;
        plm_sampler sampler;
        uint32_t ids[PROMPT];
    } both;
    plm_generation *const generation = &both.generation;
    plm_session session;
    plm_sampler sampler;
    init(&session, model, 0);
    OK(plm_sampler_init(&sampler, NULL));
    init(&both.session, model, 1);
    MUST(plm_generate_start(generation, &both.session, &sampler, tokenizer, prompt, PROMPT, NULL) ==
         PLM_ERROR_OVERLAP);
    OK(plm_feed(&both.session, prompt, PROMPT));
    OK(plm_sampler_init(&both.sampler, NULL));
    MUST(plm_generate_start(generation, &session, &both.sampler, tokenizer, prompt, PROMPT, NULL) ==
         PLM_ERROR_OVERLAP);
    memcpy(both.ids, prompt, sizeof prompt);
    MUST(plm_generate_start(generation, &session, &sampler, tokenizer, both.ids, PROMPT, NULL) ==
         PLM_ERROR_OVERLAP);
    /* A sampler in its window, a window in the bias, a model in its own memory. */
    const plm_bias bias[2] = {{1, 0.0f}, {2, 0.0f}};
    plm_sampling sampling = {.window = (plm_recent *)(void *)&both, .window_count = 1};
    MUST(plm_sampler_init(&both.sampler, &sampling) == PLM_ERROR_OVERLAP);
    sampling = (plm_sampling){.bias = bias, .bias_count = 2, .window_count = 2};
    sampling.window = (plm_recent *)(uintptr_t)bias;
    MUST(plm_sampler_init(&both.sampler, &sampling) == PLM_ERROR_OVERLAP);
    const plm_source source = {read_image, NULL, &reads};
    plm_model *const within = (plm_model *)(void *)resident;
    MUST(plm_open_from(within, &source, resident, sizeof resident, arenas[1], ARENA) ==
         PLM_ERROR_OVERLAP);
    MUST(plm_open_from(within, &source, arenas[1], ARENA, resident, sizeof resident) ==
         PLM_ERROR_OVERLAP);
    plm_generation *const inside = (plm_generation *)(void *)arenas[0];
    MUST(plm_generate_start(inside, &session, &sampler, tokenizer, prompt, PROMPT, NULL) ==
         PLM_ERROR_OVERLAP);
    OK(plm_generate_start(generation, &session, &sampler, tokenizer, prompt, PROMPT, NULL));
}

/* Why a text ends, and whose the session is meanwhile. */
static void generations(const plm_model *model, const plm_tokenizer *tokenizer)
{
    static const char *const stops[] = {"zzz", "girl"};
    const plm_generate_options options = {.stop_strings = stops, .stop_string_count = 2};
    const plm_generate_options few = {.tokens = 3};
    plm_session session;
    plm_sampler sampler;
    plm_generation generation, copy;
    struct text text = {.length = 0};
    uint32_t ids[16], scratch[PLM_SCRATCH_WORDS(16)], last;
    size_t count;
    int32_t code;
    OK(plm_encode(tokenizer, "Once upon a time", 16, PLM_ADD_SPECIAL, scratch,
                  sizeof scratch / 4, ids, 16, &count));
    init(&session, model, 0);
    OK(plm_sampler_init(&sampler, NULL));
    OK(plm_generate_start(&generation, &session, &sampler, tokenizer, ids, count, &options));
    MUST(plm_generate_last(&generation, &last) == PLM_ERROR_NO_TOKENS);
    MUST(plm_reset(&session) == PLM_ERROR_HANDLE && plm_accept(&sampler, 1) == PLM_ERROR_HANDLE);
    memcpy(&copy, &generation, sizeof copy);
    MUST(plm_generate_next(&copy, collect, &text) == PLM_ERROR_HANDLE);
    while ((code = plm_generate_step(&generation, 100, collect, &text)) < PLM_ENDED_TOKEN) {
    }
    text.bytes[text.length] = '\0';
    MUST(code == PLM_ENDED_STOP && strcmp(text.bytes, ", there was a little ") == 0);
    MUST(plm_generate_next(&generation, collect, &text) == PLM_ENDED_STOP);

    OK(plm_reset(&session));
    text.length = 0;
    OK(plm_generate_start(&generation, &session, &sampler, tokenizer, ids, count, &few));
    while ((code = plm_generate_next(&generation, collect, &text)) == PLM_OK) {
    }
    MUST(code == PLM_ENDED_LIMIT);
    OK(plm_generate_last(&generation, &last));
    MUST(last < 1024);

    OK(plm_reset(&session));
    OK(plm_generate_start(&generation, &session, &sampler, tokenizer, ids, count, NULL));
    OK(plm_generate_next(&generation, collect, &text));
    OK(plm_generate_stop(&generation, collect, &text));
    OK(plm_feed(&session, ids, 1));
    OK(plm_reset(&session));
    OK(plm_generate_start(&generation, &session, &sampler, tokenizer, ids, count, NULL));
    OK(plm_sampler_init(&sampler, NULL));
    MUST(plm_generate_next(&generation, collect, &text) == PLM_ERROR_HANDLE);
    MUST(plm_generate_stop(&generation, collect, &text) == PLM_ERROR_HANDLE);
    init(&session, model, 0);
    OK(plm_generate_start(&generation, &session, &sampler, tokenizer, ids, count, NULL));
    while ((code = plm_generate_next(&generation, collect, &text)) == PLM_OK) {
    }
    OK(plm_length(&session, &count));
    MUST(code == PLM_ENDED_CONTEXT && count == limits.context);
}

/* A grammar of the special token <x> and an "a" after it: src/grammar/mod.rs describes the format. */
static const unsigned char foreign[] = {
    'P', 'G', 'R', 'M', 1, 2, 0, 1, 0xc2, 0x97, 0xf3, 0xed, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0,
    3, '<', 'x', '>', 132, 0, 0, 0, 1, 0, 8, 0, 'a', 131,
};

/* A generation under a grammar is what masks and single tokens come to. Prints its text. */
static void grammars(const plm_model *model, const plm_tokenizer *tokenizer,
                     unsigned char *grammar, size_t bytes)
{
    plm_session session;
    plm_sampler sampler;
    plm_generation generation;
    plm_constraint constraint, copy;
    struct text text = {.length = 0}, other = {.length = 0};
    size_t count;
    float *logits;
    uint32_t id;
    int32_t code;
    bool is;
    MUST(plm_constraint_open(&constraint, tokenizer, grammar, bytes - 1) ==
         PLM_ERROR_GRAMMAR_DAMAGED);
    MUST(plm_constraint_open(&constraint, tokenizer, grammar + 1, bytes - 1) ==
         PLM_ERROR_NOT_A_GRAMMAR);
    MUST(plm_constraint_reset(&constraint) == PLM_ERROR_HANDLE);
    MUST(plm_constraint_open(&constraint, tokenizer, foreign, sizeof foreign) ==
         PLM_ERROR_OTHER_VOCABULARY);
    OK(plm_constraint_open(&constraint, tokenizer, grammar, bytes));
    MUST(plm_constraint_open(&constraint, tokenizer, &constraint, bytes) == PLM_ERROR_OVERLAP);
    memcpy(&copy, &constraint, sizeof copy);
    MUST(plm_constraint_accept(&copy, 5, &is) == PLM_ERROR_HANDLE);

    const plm_generate_options options = {.constraint = &constraint};
    init(&session, model, 0);
    OK(plm_sampler_init(&sampler, NULL));
    OK(plm_generate_start(&generation, &session, &sampler, tokenizer, prompt, PROMPT, &options));
    MUST(plm_constraint_reset(&constraint) == PLM_ERROR_HANDLE);
    while ((code = plm_generate_step(&generation, 100, collect, &text)) < PLM_ENDED_TOKEN) {
    }
    MUST(code == PLM_ENDED_COMPLETE);
    OK(plm_constraint_is_at_end(&constraint, &is));
    MUST(is);

    plm_decoder decoder;
    OK(plm_decoder_init(&decoder, tokenizer, true));
    for (size_t index = 0; index < PROMPT; index++) {
        OK(plm_decode(&decoder, prompt[index], collect, &other));
    }
    other.length = 0;
    OK(plm_constraint_reset(&constraint));
    OK(plm_reset(&session));
    OK(plm_feed(&session, prompt, PROMPT));
    for (;;) {
        OK(plm_logits(&session, &logits, &count));
        OK(plm_constraint_mask(&constraint, logits, count));
        OK(plm_sample(&sampler, &session, &id));
        OK(plm_constraint_allows(&constraint, id, &is));
        MUST(is);
        OK(plm_constraint_accept(&constraint, id, &is));
        MUST(is);
        OK(plm_decode(&decoder, id, collect, &other));
        OK(plm_constraint_is_complete(&constraint, &is));
        if (is) {
            break;
        }
        OK(plm_feed(&session, &id, 1));
    }
    /* The grammar has no further text. */
    OK(plm_constraint_accept(&constraint, id, &is));
    MUST(!is);
    MUST(text.length == other.length && memcmp(text.bytes, other.bytes, text.length) == 0);
    printf("%.*s\n", (int)text.length, text.bytes);

    /* A constraint that is opened again is taken away from a generation. */
    OK(plm_reset(&session));
    OK(plm_constraint_reset(&constraint));
    OK(plm_generate_start(&generation, &session, &sampler, tokenizer, prompt, PROMPT, &options));
    OK(plm_constraint_open(&constraint, tokenizer, grammar, bytes));
    MUST(plm_generate_next(&generation, collect, &text) == PLM_ERROR_HANDLE);
}

/* A check that sees all bytes: their sum. */
struct sum {
    uint64_t found, expected;
};

static void add(void *context, const void *data, size_t bytes)
{
    struct sum *sum = context;
    const unsigned char *byte = data;
    for (size_t index = 0; index < bytes; index++) {
        sum->found += byte[index];
    }
}

static int32_t is_signed(void *context)
{
    const struct sum *sum = context;
    return sum->found == sum->expected ? 0 : 1;
}

/* An image is used only if the check of its signature says so. */
static void signatures(void)
{
    plm_model model;
    struct sum sum = {0, 0}, found = {0, 0}, wrong = {0, 1};
    add(&sum, image, image_bytes);
    found.expected = sum.found;
    const plm_verify good = {add, is_signed, &found}, bad = {add, is_signed, &wrong};
    OK(plm_open_verified(&model, image, image_bytes, &good));
    MUST(plm_open_verified(&model, image, image_bytes, &bad) == PLM_ERROR_UNVERIFIED);
    const plm_verify none = {add, NULL, &found};
    MUST(plm_open_verified(&model, image, image_bytes, &none) == PLM_ERROR_NULL);

    const plm_source source = {read_image, NULL, &reads};
    found.found = 0;
    OK(plm_open_verified_from(&model, &source, resident, sizeof resident, arenas[1], ARENA, &good));
    MUST(plm_open_verified_from(&model, &source, resident, sizeof resident, arenas[1], ARENA,
                                &bad) == PLM_ERROR_UNVERIFIED);
}

static unsigned char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    MUST(file != NULL && fseek(file, 0, SEEK_END) == 0);
    *bytes = (size_t)ftell(file);
    rewind(file);
    unsigned char *data = aligned_alloc(64, (*bytes + 63) / 64 * 64);
    MUST(data != NULL && fread(data, 1, *bytes, file) == *bytes);
    fclose(file);
    return data;
}

int main(int argc, char **argv)
{
    MUST(argc == 3);
    image = read_file(argv[1], &image_bytes);
    size_t grammar_bytes;
    unsigned char *grammar = read_file(argv[2], &grammar_bytes);

    plm_model model;
    plm_tokenizer tokenizer;
    plm_model_info info;
    MUST(plm_floats_are_ieee());
    OK(plm_open(&model, image, image_bytes));
    OK(plm_info(&model, &info));
    MUST(plm_open_expected(&model, image, image_bytes, info.checksum ^ 1) ==
         PLM_ERROR_OTHER_IMAGE);
    MUST(plm_info(&model, &info) == PLM_ERROR_HANDLE);
    OK(plm_open_expected(&model, image, image_bytes, info.checksum));
    OK(plm_tokenizer_open(&tokenizer, &model));
    parts_of_an_arena(&model);
    printf("%016llx\n", (unsigned long long)the_same_bits(&model));
    snapshots(&model);
    choices_and_text(&model, &tokenizer);
    overlaps(&model, &tokenizer);
    generations(&model, &tokenizer);
    grammars(&model, &tokenizer, grammar, grammar_bytes);
    signatures();
    free(grammar);
    free(image);
    return EXIT_SUCCESS;
}
