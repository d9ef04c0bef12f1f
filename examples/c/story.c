/* Tells a story: `story IMAGE` prints what the model in IMAGE writes after the prompt. */
#include <stdio.h>
#include <stdlib.h>

#include "pocketlm.h"

static const char PROMPT[] = "Once upon a time";

static int32_t check(int32_t code)
{
    if (code >= 100) {
        fprintf(stderr, "error %d: %s\n", (int)code, plm_error_text(code));
        exit(EXIT_FAILURE);
    }
    return code;
}

static void print(void *file, const char *text, size_t bytes)
{
    fwrite(text, 1, bytes, file);
    fflush(file);
}

/* Reads a file to the start of memory that is aligned as images must be. */
static void *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    *bytes = (size_t)ftell(file);
    rewind(file);
    void *memory = aligned_alloc(PLM_ALIGNMENT, (*bytes + 63) / 64 * 64);
    if (memory == NULL || fread(memory, 1, *bytes, file) != *bytes) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    fclose(file);
    return memory;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s IMAGE\n", argv[0]);
        return EXIT_FAILURE;
    }
    size_t image_bytes, arena_bytes, count;
    void *image = read_file(argv[1], &image_bytes);

    plm_model model;
    plm_tokenizer tokenizer;
    check(plm_open(&model, image, image_bytes));
    check(plm_tokenizer_open(&tokenizer, &model));

    plm_session session;
    const plm_limits limits = {.context = 256, .batch = 8, .kv = PLM_KV_F32};
    check(plm_plan(&model, &limits, &arena_bytes));
    void *arena = aligned_alloc(PLM_ALIGNMENT, arena_bytes);
    check(plm_session_init(&session, &model, &limits, arena, arena_bytes, NULL, NULL));

    plm_sampler sampler;
    const plm_sampling sampling = {.seed = 33, .temperature = 0.5f, .top_p = 0.9f};
    check(plm_sampler_init(&sampler, &sampling));

    uint32_t ids[32], scratch[PLM_SCRATCH_WORDS(sizeof PROMPT)];
    check(plm_encode(&tokenizer, PROMPT, sizeof PROMPT - 1, PLM_ADD_SPECIAL, scratch,
                     sizeof scratch / sizeof *scratch, ids, sizeof ids / sizeof *ids, &count));

    plm_generation text;
    check(plm_generate_start(&text, &session, &sampler, &tokenizer, ids, count, NULL));
    print(stdout, PROMPT, sizeof PROMPT - 1);
    while (check(plm_generate_next(&text, print, stdout)) == PLM_OK) {
    }
    putchar('\n');
    free(arena);
    free(image);
    return EXIT_SUCCESS;
}
