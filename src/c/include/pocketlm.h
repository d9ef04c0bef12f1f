/* pocketlm: small language models from a microcontroller to a laptop, the same bits everywhere.
 *
 * Handles (plm_model, plm_session, ...) lie in memory of the caller: a static, a local variable.
 * Their sizes are compile-time constants. The first argument of a function is the handle that it
 * opens or works with. A handle that is not open, is of another kind, or was copied elsewhere is
 * refused, and so is one that is in use by the call that runs a callback. There is nothing to
 * close. A handle may be opened again; nothing that was made from it is changed by that.
 *
 * The memory of a handle, and the memory that it was given, may be used for something else only
 * when the handle is not used any more, by the caller or by a handle that it is lent to.
 * plm_generate_start lends a session, a sampler and a constraint to a generation: other calls with
 * them return PLM_ERROR_HANDLE until the text has ended, or until plm_generate_stop. Opening one of
 * them again takes it away from the generation, which cannot go on then (PLM_ERROR_HANDLE).
 *
 * NULL and misaligned pointers and lengths that are too large are refused. A function that lists
 * PLM_ERROR_OVERLAP refuses arguments that share memory. It cannot know what other handles
 * use: the caller keeps buffers apart from images, handles and arenas that are in use. Nor can it
 * check that memory is there, and is as long as the arguments say. A pointer to no values may be NULL.
 *
 * Functions return PLM_OK (0) or another number. Numbers below 100 are no errors. Numbers from 100
 * on are errors; none of them ever changes its meaning. After an error a handle is as before,
 * except one that was to be opened: it may be closed. Results are not written, unless a function
 * says otherwise.
 *
 * Nothing here allocates, blocks, recurses or panics. Models and tokenizers may be used by any
 * number of threads or interrupts at the same time. All other handles are used by one thread or
 * interrupt at a time; it may be another one for each call.
 *
 * Functions of the caller (callbacks) run during a call, on the thread of that call; only the jobs
 * of plm_workers may run on others. Callbacks must return: no longjmp, and no C++ exception. They
 * may call the functions here, but handles that the running call changes are in use: calls with
 * them return PLM_ERROR_HANDLE. Callbacks must not open these again, or change memory that the call
 * uses.
 *
 * This file is made by cbindgen from the Rust sources. */

#ifndef POCKETLM_H
#define POCKETLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if UINTPTR_MAX == 0xFFFFFFFF
#define PLM_32_BIT
#elif UINTPTR_MAX == 0xFFFFFFFFFFFFFFFF
#define PLM_64_BIT
#else
#error "pocketlm runs on machines of 32 and 64 bits"
#endif

/* Words of scratch that are enough to encode any text of so many bytes. */
#define PLM_SCRATCH_WORDS(bytes) (3 * ((size_t)(bytes) + 1) + ((size_t)(bytes) + 1) / 15 + 16)

/* The same for tokenizers that normalise to NFC (Qwen). */
#define PLM_NFC_SCRATCH_WORDS(bytes) \
    (PLM_SCRATCH_WORDS(3 * (size_t)(bytes)) + 3 * (size_t)(bytes) / 4 + 1)

/* What images and arenas are aligned to. */
#define PLM_ALIGNMENT 64

/**
 * Done.
 */
#define PLM_OK 0

/**
 * Not an error: there is more to do, call again.
 */
#define PLM_PENDING 1

/**
 * The text has ended: the model chose a token that ends a text.
 */
#define PLM_ENDED_TOKEN 2

/**
 * The text has ended: it came to a stop string.
 */
#define PLM_ENDED_STOP 3

/**
 * The text has ended: it has as many tokens as were asked for.
 */
#define PLM_ENDED_LIMIT 4

/**
 * The text has ended: the context has no room for another token.
 */
#define PLM_ENDED_CONTEXT 5

/**
 * The text has ended: it is complete by its grammar, and nothing more may come.
 */
#define PLM_ENDED_COMPLETE 6

/**
 * The first bytes are not those of an image.
 */
#define PLM_ERROR_NOT_AN_IMAGE 100

/**
 * An image of a format version that this build does not read.
 */
#define PLM_ERROR_VERSION 101

/**
 * Fewer bytes than the image says it has.
 */
#define PLM_ERROR_TRUNCATED 102

/**
 * The image or the arena does not start at a multiple of 64 bytes.
 */
#define PLM_ERROR_UNALIGNED 103

/**
 * A section of the image has a wrong place or length.
 */
#define PLM_ERROR_LAYOUT 104

/**
 * The image is damaged: a checksum differs.
 */
#define PLM_ERROR_CHECKSUM 105

/**
 * The image's config makes no model.
 */
#define PLM_ERROR_CONFIG 106

/**
 * A tensor is missing, misplaced or of a type it cannot have.
 */
#define PLM_ERROR_TENSOR 107

/**
 * A tensor holds an infinity or NaN.
 */
#define PLM_ERROR_NOT_FINITE 108

/**
 * The library was built without the kernels of this type of weights, keys or values.
 */
#define PLM_ERROR_DISABLED 109

/**
 * The chat template is not UTF-8.
 */
#define PLM_ERROR_CHAT_TEMPLATE 110

/**
 * The image's signature was rejected.
 */
#define PLM_ERROR_UNVERIFIED 111

/**
 * The library was built without convolutions, which some layers of the image are.
 */
#define PLM_ERROR_CONVOLUTION_DISABLED 112

/**
 * The context or the batch is 0, or so large that sizes overflow.
 */
#define PLM_ERROR_LIMITS 200

/**
 * The plan was made for another model.
 */
#define PLM_ERROR_FOREIGN_PLAN 201

/**
 * The arena, or the memory for the resident parts of an image, is too small.
 */
#define PLM_ERROR_ARENA_TOO_SMALL 202

/**
 * The buffer that weights are read into is too small.
 */
#define PLM_ERROR_WEIGHT_BUFFER_TOO_SMALL 203

/**
 * The weights are not in memory, and no source was given.
 */
#define PLM_ERROR_NOT_MAPPED 204

/**
 * There was nothing to do: no token was given.
 */
#define PLM_ERROR_NO_TOKENS 205

/**
 * More tokens than the context has room for; nothing was fed.
 */
#define PLM_ERROR_CONTEXT_FULL 206

/**
 * The position is not after that of the last token.
 */
#define PLM_ERROR_POSITION 207

/**
 * Older keys have left the attention windows, so fewer tokens can be taken back.
 */
#define PLM_ERROR_REWIND_TOO_FAR 208

/**
 * Tokens given earlier are still being computed.
 */
#define PLM_ERROR_BUSY 209

/**
 * A function of the caller that reads or writes reported a failure.
 */
#define PLM_ERROR_STORAGE 300

/**
 * The storage has too little room.
 */
#define PLM_ERROR_STORAGE_TOO_SMALL 301

/**
 * There is no snapshot.
 */
#define PLM_ERROR_NOT_A_SNAPSHOT 302

/**
 * A snapshot of a format version that this build does not read.
 */
#define PLM_ERROR_SNAPSHOT_VERSION 303

/**
 * The snapshot was made with another image.
 */
#define PLM_ERROR_FOREIGN_SNAPSHOT 304

/**
 * The snapshot keeps keys and values in another type.
 */
#define PLM_ERROR_SNAPSHOT_KV 305

/**
 * The snapshot is cut short or damaged.
 */
#define PLM_ERROR_SNAPSHOT_DAMAGED 306

/**
 * The tokenizer section is cut short.
 */
#define PLM_ERROR_TOKENIZER_TRUNCATED 400

/**
 * The tokenizer section is damaged or of a newer version.
 */
#define PLM_ERROR_TOKENIZER_INVALID 401

/**
 * The library was built without byte-level tokenizers.
 */
#define PLM_ERROR_BYTE_LEVEL_DISABLED 402

/**
 * The library was built without NFC.
 */
#define PLM_ERROR_NFC_DISABLED 403

/**
 * The scratch is too small for this text.
 */
#define PLM_ERROR_SCRATCH_TOO_SMALL 404

/**
 * The token ids do not fit the output.
 */
#define PLM_ERROR_OUTPUT_TOO_SMALL 405

/**
 * No logit is above minus infinity, or there are no logits: there is no token to choose.
 */
#define PLM_ERROR_NO_CANDIDATE 406

/**
 * A token id that the vocabulary does not have.
 */
#define PLM_ERROR_TOKEN_OUT_OF_RANGE 407

/**
 * The image holds no tokenizer.
 */
#define PLM_ERROR_NO_TOKENIZER 408

/**
 * The first bytes are not those of a compiled grammar.
 */
#define PLM_ERROR_NOT_A_GRAMMAR 409

/**
 * A grammar of a format version that this build does not read.
 */
#define PLM_ERROR_GRAMMAR_VERSION 410

/**
 * The grammar is cut short or damaged.
 */
#define PLM_ERROR_GRAMMAR_DAMAGED 411

/**
 * A pointer is NULL.
 */
#define PLM_ERROR_NULL 500

/**
 * A pointer is not aligned for what it points to.
 */
#define PLM_ERROR_MISALIGNED 501

/**
 * A length is larger than memory, or a stop string is longer than 64 bytes.
 */
#define PLM_ERROR_LENGTH 502

/**
 * A handle is not open, is of another kind, was copied, or is in use by a generation or by the
 * call that runs this callback.
 */
#define PLM_ERROR_HANDLE 503

/**
 * The text is not UTF-8.
 */
#define PLM_ERROR_UTF8 504

/**
 * The image is not the one with the expected checksum.
 */
#define PLM_ERROR_OTHER_IMAGE 505

/**
 * A setting has a value that means nothing.
 */
#define PLM_ERROR_SETTING 506

/**
 * Buffers share memory.
 */
#define PLM_ERROR_OVERLAP 507

/**
 * The library was built without weight sources (feature `source`).
 */
#define PLM_ERROR_NO_SOURCE 508

/**
 * The library was built without grammars (feature `grammar`).
 */
#define PLM_ERROR_NO_GRAMMAR 509

/**
 * The grammar names a special token that the tokenizer does not have.
 */
#define PLM_ERROR_OTHER_VOCABULARY 510

/**
 * Keys and values are kept as they are computed.
 */
#define PLM_KV_F32 0

/**
 * Keys and values are kept in binary16.
 */
#define PLM_KV_F16 1

/**
 * Keys and values are kept in bfloat16.
 */
#define PLM_KV_BF16 2

/**
 * Keys and values are kept in 8 bits.
 */
#define PLM_KV_Q8 3

#if defined(PLM_32_BIT)
/**
 * Words of 8 bytes of a `plm_model`.
 */
#define PLM_MODEL_WORDS 41
#endif

#if defined(PLM_64_BIT)
/**
 * Words of 8 bytes of a `plm_model`.
 */
#define PLM_MODEL_WORDS 51
#endif

/**
 * Bytes of a `plm_model`.
 */
#define PLM_MODEL_BYTES (PLM_MODEL_WORDS * 8)

/**
 * Parts of an arena.
 */
#define PLM_PARTS 9

/**
 * Buffers in a part of an arena.
 */
#define PLM_BUFFERS 15

#if defined(PLM_32_BIT)
/**
 * Words of 8 bytes of a `plm_session`.
 */
#define PLM_SESSION_WORDS 99
#endif

#if defined(PLM_64_BIT)
/**
 * Words of 8 bytes of a `plm_session`.
 */
#define PLM_SESSION_WORDS 154
#endif

/**
 * Bytes of a `plm_session`.
 */
#define PLM_SESSION_BYTES (PLM_SESSION_WORDS * 8)

#if defined(PLM_32_BIT)
/**
 * Words of 8 bytes of a `plm_sampler`.
 */
#define PLM_SAMPLER_WORDS 11
#endif

#if defined(PLM_64_BIT)
/**
 * Words of 8 bytes of a `plm_sampler`.
 */
#define PLM_SAMPLER_WORDS 15
#endif

/**
 * Bytes of a `plm_sampler`.
 */
#define PLM_SAMPLER_BYTES (PLM_SAMPLER_WORDS * 8)

#if defined(PLM_32_BIT)
/**
 * Words of 8 bytes of a `plm_choice`.
 */
#define PLM_CHOICE_WORDS 74
#endif

#if defined(PLM_64_BIT)
/**
 * Words of 8 bytes of a `plm_choice`.
 */
#define PLM_CHOICE_WORDS 76
#endif

/**
 * Bytes of a `plm_choice`.
 */
#define PLM_CHOICE_BYTES (PLM_CHOICE_WORDS * 8)

/**
 * Begin with the token that starts a text, and add what else the tokenizer asks for.
 */
#define PLM_ADD_SPECIAL 1

/**
 * Read special tokens that are written out in the text. Not for text from people who are not to
 * write control tokens.
 */
#define PLM_PARSE_SPECIAL 2

#if defined(PLM_32_BIT)
/**
 * Words of 8 bytes of a `plm_tokenizer`.
 */
#define PLM_TOKENIZER_WORDS 42
#endif

#if defined(PLM_64_BIT)
/**
 * Words of 8 bytes of a `plm_tokenizer`.
 */
#define PLM_TOKENIZER_WORDS 72
#endif

/**
 * Bytes of a `plm_tokenizer`.
 */
#define PLM_TOKENIZER_BYTES (PLM_TOKENIZER_WORDS * 8)

#if defined(PLM_32_BIT)
/**
 * Words of 8 bytes of a `plm_decoder`.
 */
#define PLM_DECODER_WORDS 43
#endif

#if defined(PLM_64_BIT)
/**
 * Words of 8 bytes of a `plm_decoder`.
 */
#define PLM_DECODER_WORDS 73
#endif

/**
 * Bytes of a `plm_decoder`.
 */
#define PLM_DECODER_BYTES (PLM_DECODER_WORDS * 8)

#if defined(PLM_32_BIT)
/**
 * Words of 8 bytes of a `plm_constraint`.
 */
#define PLM_CONSTRAINT_WORDS 56
#endif

#if defined(PLM_64_BIT)
/**
 * Words of 8 bytes of a `plm_constraint`.
 */
#define PLM_CONSTRAINT_WORDS 90
#endif

/**
 * Bytes of a `plm_constraint`.
 */
#define PLM_CONSTRAINT_BYTES (PLM_CONSTRAINT_WORDS * 8)

/**
 * The most stop strings of a generation.
 */
#define PLM_STOP_STRINGS 4

#if defined(PLM_32_BIT)
/**
 * Words of 8 bytes of a `plm_generation`.
 */
#define PLM_GENERATION_WORDS 190
#endif

#if defined(PLM_64_BIT)
/**
 * Words of 8 bytes of a `plm_generation`.
 */
#define PLM_GENERATION_WORDS 268
#endif

/**
 * Bytes of a `plm_generation`.
 */
#define PLM_GENERATION_BYTES (PLM_GENERATION_WORDS * 8)

/**
 * An opened image. It holds no copy of the image, which must stay where it is for as long as the
 * model, or anything made from the model, is used. Sessions and tokenizers copy what they need of
 * the model: once they are made, its own memory may have another use.
 *
 * Threads: once open, any number of threads may use it at the same time.
 */
typedef struct plm_model {
    uint64_t opaque[PLM_MODEL_WORDS];
} plm_model;

/**
 * A check of a signature over all bytes of an image. The scheme, the key and the place of the
 * signature are the caller's. The structure is read during the call that it is given to.
 */
typedef struct plm_verify {
    /**
     * Takes the next bytes of the image, from the first to the last, in pieces of any size. Not
     * NULL.
     */
    void (*update)(void *context, const void *data, size_t bytes);
    /**
     * Returns 0 if the image may be used. Called once, after its last byte. Not NULL.
     */
    int32_t (*verify)(void *context);
    /**
     * Given to both.
     */
    void *context;
} plm_verify;

/**
 * What an image says of itself.
 */
typedef struct plm_model_info {
    /**
     * The checksum of the image's header, which covers the checksums of all its parts.
     */
    uint32_t checksum;
    /**
     * Tokens of the vocabulary: a session has as many logits.
     */
    uint32_t vocab_size;
    /**
     * The context length that the model was trained with; 0 if the checkpoint did not say.
     */
    uint32_t trained_context;
    /**
     * Layers.
     */
    uint32_t layers;
} plm_model_info;

/**
 * What a session has to hold.
 */
typedef struct plm_limits {
    /**
     * Tokens of the context: 1 or more.
     */
    uint32_t context;
    /**
     * Tokens of a prompt that are computed together: 1 or more. More is faster and needs more
     * memory; 1 to 8 are good on a microcontroller.
     */
    uint32_t batch;
    /**
     * The type of keys and values: `PLM_KV_F32`, `PLM_KV_F16`, `PLM_KV_BF16` or `PLM_KV_Q8`.
     */
    uint32_t kv;
    /**
     * Bytes of the buffer for weights that are not in memory. 0 if they are, and in a library
     * without the feature `source`.
     */
    size_t weight_buffer;
} plm_limits;

/**
 * What the arena of a session is used for: bytes of its parts, in their order, each padded to a
 * multiple of 64.
 */
typedef struct plm_arena_parts {
    /**
     * The ids and positions of the context's tokens.
     */
    size_t tokens;
    /**
     * The residual stream of a batch.
     */
    size_t hidden;
    /**
     * What goes into the branches of a layer, and what comes back.
     */
    size_t branch;
    /**
     * Attention's queries and scores, or what the feed-forward computes: whichever is more.
     */
    size_t scratch;
    /**
     * The logits.
     */
    size_t logits;
    /**
     * Inputs of quantised matrices.
     */
    size_t groups;
    /**
     * The cosines and sines of a batch.
     */
    size_t rope;
    /**
     * Weights that are not in memory.
     */
    size_t weights;
    /**
     * Keys and values, and what convolutions keep.
     */
    size_t cache;
} plm_arena_parts;

/**
 * Where weights are read from: external flash without a memory-mapped window, an SD card, a file.
 * The structure is copied; what `context` points to must stay. The functions are called on the
 * thread that calls `plm_open_from` or computes with the session.
 */
typedef struct plm_source {
    /**
     * Fills `buffer` with `bytes` bytes of the image from `offset` on, a multiple of 4. Returns 0,
     * or any other number if it cannot. What turns out to be no image may have been asked for from
     * any offset. Not NULL.
     */
    int32_t (*read)(void *context, uint64_t offset, void *buffer, size_t bytes);
    /**
     * The same, and calls `work(argument)` once while the bytes are on their way: starts a
     * transfer, calls `work`, waits for the end of the transfer. NULL if there is no such thing.
     */
    int32_t (*read_while)(void *context,
                          uint64_t offset,
                          void *buffer,
                          size_t bytes,
                          void (*work)(void *argument),
                          void *argument);
    /**
     * Given to both.
     */
    void *context;
} plm_source;

/**
 * One context of a model: the tokens so far with their keys and values, in an arena.
 *
 * It stays where it is: a copy is refused. Its arena, and the contexts of its functions, must stay
 * until its last call has returned. Nothing has to be closed.
 *
 * Threads: one at a time. Different sessions may run at the same time.
 */
typedef struct plm_session {
    uint64_t opaque[PLM_SESSION_WORDS];
} plm_session;

/**
 * Cores or threads that share the work. The structure is copied; what `context` points to must
 * stay. On cores without compare-and-swap (Armv6-M) the calling core computes alone.
 */
typedef struct plm_workers {
    /**
     * Calls `job(argument)` at least once, on as many cores as there are, and returns when all
     * calls have returned. Each call takes what work is left, so that one call does it all. `job`
     * may run on any thread, and on several at the same time. Not NULL.
     */
    void (*run)(void *context, void (*job)(void *argument), void *argument);
    /**
     * Given to `run`.
     */
    void *context;
    /**
     * How many cores that are: 1 or more. It changes no bit of the result.
     */
    uint32_t count;
} plm_workers;

/**
 * A plan as numbers, for an image whose weights are in memory: `PLM_SIZES` of the header that
 * `pocketlm plan --c-header` writes. `plm_session_init_sized` takes it, so that a device need not
 * compute the plan.
 */
typedef struct plm_sizes {
    /**
     * The checksum of the image's header.
     */
    uint32_t checksum;
    /**
     * What the session has to hold.
     */
    struct plm_limits limits;
    /**
     * Bytes of the parts of the arena.
     */
    size_t parts[PLM_PARTS];
    /**
     * Where the buffers in them start and end.
     */
    size_t buffers[PLM_BUFFERS][2];
} plm_sizes;

/**
 * Takes the next `bytes` bytes of a snapshot. Returns 0, or any other number if it cannot.
 */
typedef int32_t (*plm_save_bytes)(void *context, const void *data, size_t bytes);

/**
 * Fills `data` with the next `bytes` bytes of a snapshot. Returns 0, or any other number if it
 * cannot.
 */
typedef int32_t (*plm_restore_bytes)(void *context, void *data, size_t bytes);

/**
 * Chooses the next token. It stays where it is: a copy is refused.
 *
 * Threads: one at a time.
 */
typedef struct plm_sampler {
    uint64_t opaque[PLM_SAMPLER_WORDS];
} plm_sampler;

/**
 * What is added to the logit of a token; minus infinity forbids the token.
 */
typedef struct plm_bias {
    /**
     * The token.
     */
    uint32_t id;
    /**
     * What is added.
     */
    float bias;
} plm_bias;

/**
 * Room for a token in the window of penalties.
 */
typedef struct plm_recent {
    uint32_t opaque[2];
} plm_recent;

/**
 * How tokens are chosen. All zeros: the largest logit. The filters apply in this order: bias,
 * penalties, top k, top p, min p, temperature. A value out of range counts as the nearest valid
 * one.
 */
typedef struct plm_sampling {
    /**
     * The start of the random numbers.
     */
    uint64_t seed;
    /**
     * Divides the logits. 0: the largest logit, without filters.
     */
    float temperature;
    /**
     * Keeps as many of the largest logits. 0: all.
     */
    uint32_t top_k;
    /**
     * Keeps the fewest tokens whose probabilities add up to this. 0: all, and 1 as well.
     */
    float top_p;
    /**
     * Keeps tokens at least this times as probable as the most probable one. 0: all.
     */
    float min_p;
    /**
     * Tokens whose logits are changed: read as long as the sampler is used. NULL if there are
     * none.
     */
    const struct plm_bias *bias;
    /**
     * How many.
     */
    size_t bias_count;
    /**
     * Room for the recent tokens that penalties see: used as long as the sampler is. NULL without
     * penalties.
     */
    struct plm_recent *window;
    /**
     * How many tokens that are.
     */
    size_t window_count;
    /**
     * Divides positive logits of recent tokens and multiplies the others. 0: no penalty, and 1.
     */
    float repeat;
    /**
     * Subtracted once for each time that a recent token occurs. 0: no penalty.
     */
    float frequency;
    /**
     * Subtracted if a token occurs at all. 0: no penalty.
     */
    float presence;
} plm_sampling;

/**
 * A choice that is made in calls of bounded length. It stays where it is.
 *
 * Threads: one at a time.
 */
typedef struct plm_choice {
    uint64_t opaque[PLM_CHOICE_WORDS];
} plm_choice;

/**
 * The tokenizer of an image, which must stay where it is. It is copied where it is needed.
 *
 * Threads: once open, any number of threads may use it at the same time.
 */
typedef struct plm_tokenizer {
    uint64_t opaque[PLM_TOKENIZER_WORDS];
} plm_tokenizer;

/**
 * Turns tokens into text, one at a time. It stays where it is: a copy is refused.
 *
 * Threads: one at a time.
 */
typedef struct plm_decoder {
    uint64_t opaque[PLM_DECODER_WORDS];
} plm_decoder;

/**
 * Takes text: whole UTF-8 characters, `bytes` bytes without a NUL at the end. `text` is valid
 * during the call.
 */
typedef void (*plm_write)(void *context, const char *text, size_t bytes);

/**
 * A grammar, and a place in a text that obeys it: which tokens may come next. It stays where it
 * is: a copy is refused. Its functions are in libraries with the feature `grammar`.
 *
 * `plm_generate_start` can lend it to a generation. Then calls with it are refused with
 * `PLM_ERROR_HANDLE` until the text has ended, or until `plm_generate_stop`; after that it is at
 * the end of the text.
 *
 * Threads: one at a time.
 */
typedef struct plm_constraint {
    uint64_t opaque[PLM_CONSTRAINT_WORDS];
} plm_constraint;

/**
 * Text that a model generates after a prompt. It stays where it is: a copy is refused.
 *
 * While the text goes on, the session, the sampler and the constraint are the generation's: other
 * calls with them are refused with `PLM_ERROR_HANDLE`, and their memory must stay. They are free
 * again when the text has ended, or after `plm_generate_stop`. One that is opened again before
 * that is taken away from the generation, which cannot go on then (`PLM_ERROR_HANDLE`).
 *
 * Threads: one at a time.
 */
typedef struct plm_generation {
    uint64_t opaque[PLM_GENERATION_WORDS];
} plm_generation;

/**
 * What is in a text, and when it ends, beside the tokens that end it and a full context.
 */
typedef struct plm_generate_options {
    /**
     * After as many tokens. 0: no limit.
     */
    size_t tokens;
    /**
     * Where it would contain one of these strings, each UTF-8 of 1 to 64 bytes and a NUL. They are
     * read as long as the generation is used. NULL if there are none.
     */
    const char *const *stop_strings;
    /**
     * How many: at most `PLM_STOP_STRINGS`.
     */
    size_t stop_string_count;
    /**
     * The text obeys this grammar, from the constraint's place on. NULL if there is none.
     */
    struct plm_constraint *constraint;
    /**
     * Special tokens are a part of the text, for calls of tools. They are left out otherwise.
     */
    bool keep_special;
} plm_generate_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * A sentence that says what a number means: what is wrong, and what to do. It is UTF-8, static and
 * never NULL. A program that does not call this function links none of the sentences.
 *
 * Any thread may call it at any time.
 */
const char *plm_error_text(int32_t code);

/**
 * Opens an image in memory and checks all of it: this reads every byte of it. After that the image
 * is trusted.
 *
 * `model` is what is opened. `image` starts at a multiple of 64 and has `bytes` bytes, which do
 * not change while the model is used.
 *
 * Errors: 100 to 110, `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED` (`model`),
 * `PLM_ERROR_LENGTH`.
 */
int32_t plm_open(struct plm_model *model, const void *image, size_t bytes);

/**
 * The same for one image alone: any other is refused before it is read. `checksum` is
 * `PLM_IMAGE_CHECKSUM` of the header that `pocketlm plan --c-header` writes. So the sizes in that
 * header are right for this image.
 *
 * Errors: those of `plm_open`, and `PLM_ERROR_OTHER_IMAGE`.
 */
int32_t plm_open_expected(struct plm_model *model,
                          const void *image,
                          size_t bytes,
                          uint32_t checksum);

/**
 * `plm_open` for a signed image: `verify` sees all bytes of the image before anything in them is
 * used.
 *
 * Errors: those of `plm_open`, and `PLM_ERROR_UNVERIFIED` if `verify` refuses the image.
 */
int32_t plm_open_verified(struct plm_model *model,
                          const void *image,
                          size_t bytes,
                          const struct plm_verify *verify);

/**
 * Writes what an image says of itself to `info`.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_info(const struct plm_model *model, struct plm_model_info *info);

/**
 * Writes to `arena_bytes` how many bytes the arena of a session needs. It is what
 * `pocketlm plan --c-header` writes as `PLM_ARENA_BYTES` for the same limits.
 *
 * Errors: `PLM_ERROR_LIMITS` if context or batch is 0 or no memory could hold this;
 * `PLM_ERROR_SETTING` for an unknown `kv`; `PLM_ERROR_NO_SOURCE` for a `weight_buffer` in a
 * library without the feature `source`; `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
 * `PLM_ERROR_HANDLE`.
 */
int32_t plm_plan(const struct plm_model *model,
                 const struct plm_limits *limits,
                 size_t *arena_bytes);

/**
 * Writes the parts of that arena to `parts`. Together they are `arena_bytes` of `plm_plan`.
 *
 * Errors: those of `plm_plan`.
 */
int32_t plm_plan_parts(const struct plm_model *model,
                       const struct plm_limits *limits,
                       struct plm_arena_parts *parts);

/**
 * Whether `float` is computed as IEEE 754 asks. If not, the logits are not those of other
 * machines: some operating systems and some floating-point routines in ROM flush subnormal numbers
 * to zero. Call it once at the start, in the mode that the program computes in.
 */
bool plm_floats_are_ieee(void);

/**
 * Opens an image whose weights stay where they are. All the rest of it is read into `resident`,
 * which starts at a multiple of 64, has `resident_bytes` bytes (`PLM_RESIDENT_BYTES` of the header
 * that `pocketlm plan --c-header` writes), and is used as long as the model is. The weights are
 * read once, through `scratch`, which starts at a multiple of 64; an arena will do, before a
 * session has it.
 *
 * The library must be built with the feature `source`.
 *
 * Errors: those of `plm_open`; `PLM_ERROR_ARENA_TOO_SMALL` for `resident`,
 * `PLM_ERROR_WEIGHT_BUFFER_TOO_SMALL` for `scratch`; `PLM_ERROR_STORAGE`; `PLM_ERROR_OVERLAP`;
 * `PLM_ERROR_NO_SOURCE`.
 */
int32_t plm_open_from(struct plm_model *model,
                      const struct plm_source *source,
                      void *resident,
                      size_t resident_bytes,
                      void *scratch,
                      size_t scratch_bytes);

/**
 * `plm_open_from` for a signed image: `verify` sees all bytes of the image before anything in them
 * is used. What is resident stays as `verify` saw it. The weights are read again for every token,
 * so a device that can be exchanged can return others later.
 *
 * Errors: those of `plm_open_from`, and `PLM_ERROR_UNVERIFIED` if `verify` refuses the image.
 */
int32_t plm_open_verified_from(struct plm_model *model,
                               const struct plm_source *source,
                               void *resident,
                               size_t resident_bytes,
                               void *scratch,
                               size_t scratch_bytes,
                               const struct plm_verify *verify);

/**
 * Makes a session in `arena`, which starts at a multiple of 64, has `arena_bytes` bytes, as many
 * as `plm_plan` says, and may contain anything.
 *
 * `workers` is NULL for the calling core alone. `source` is NULL if the weights are in memory.
 * Whichever computes: the logits are the same bits.
 *
 * Errors: `PLM_ERROR_LIMITS`, `PLM_ERROR_SETTING`, `PLM_ERROR_ARENA_TOO_SMALL`,
 * `PLM_ERROR_UNALIGNED`, `PLM_ERROR_DISABLED` for a type of keys and values,
 * `PLM_ERROR_WEIGHT_BUFFER_TOO_SMALL`, `PLM_ERROR_NOT_MAPPED`, `PLM_ERROR_NO_SOURCE`,
 * `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`,
 * `PLM_ERROR_HANDLE`.
 */
int32_t plm_session_init(struct plm_session *session,
                         const struct plm_model *model,
                         const struct plm_limits *limits,
                         void *arena,
                         size_t arena_bytes,
                         const struct plm_workers *workers,
                         const struct plm_source *source);

/**
 * `plm_session_init` with the numbers of a header that `pocketlm plan --c-header` has written,
 * `PLM_SIZES`: what computes them takes no flash. The weights are in memory.
 *
 * Errors: `PLM_ERROR_FOREIGN_PLAN` if the numbers are for another image; those of
 * `plm_session_init`.
 */
int32_t plm_session_init_sized(struct plm_session *session,
                               const struct plm_model *model,
                               const struct plm_sizes *sizes,
                               void *arena,
                               size_t arena_bytes,
                               const struct plm_workers *workers);

/**
 * Adds `count` tokens to the context, for example a prompt or the token just sampled, and computes
 * the logits of the last one. On an error no token was added; the exception is
 * `PLM_ERROR_STORAGE`, after which `plm_step` goes on and `plm_abort` gives up.
 *
 * Errors: `PLM_ERROR_NO_TOKENS`, `PLM_ERROR_CONTEXT_FULL`, `PLM_ERROR_TOKEN_OUT_OF_RANGE`,
 * `PLM_ERROR_BUSY`, `PLM_ERROR_STORAGE`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
 * `PLM_ERROR_LENGTH`, `PLM_ERROR_OVERLAP`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_feed(struct plm_session *session, const uint32_t *ids, size_t count);

/**
 * Gives `count` tokens to `plm_step`. They are copied.
 *
 * Errors: those of `plm_feed` but for `PLM_ERROR_STORAGE`; nothing has changed then.
 */
int32_t plm_start(struct plm_session *session, const uint32_t *ids, size_t count);

/**
 * Goes on with what `plm_start` began, until the work costs about `budget`, 0 to `UINT32_MAX`. A
 * cost of 1 is a row of a matrix as wide as the embedding, times one token. `PLM_PENDING` if there
 * is more to do, `PLM_OK` once the logits are there.
 *
 * Errors: `PLM_ERROR_NO_TOKENS` if there is nothing to do; `PLM_ERROR_STORAGE`, after which the
 * next call tries again; `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_step(struct plm_session *session, uint32_t budget);

/**
 * Drops the work that `plm_start` began; the context is as before. Does nothing without such work.
 *
 * Errors: `PLM_ERROR_REWIND_TOO_FAR` if that is impossible: step to the end, or reset.
 * `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_abort(struct plm_session *session);

/**
 * Writes to `logits` where the logits of the last token are, and to `count` how many. The program
 * may read and change them until the next call with this session, which may overwrite them.
 *
 * Errors: `PLM_ERROR_NO_CANDIDATE` if there are none: no token was fed, or the context was changed
 * in another way since. `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_logits(struct plm_session *session, float **logits, size_t *count);

/**
 * Writes to `tokens` how many tokens the context holds.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_length(struct plm_session *session, size_t *tokens);

/**
 * Writes to `tokens` where the ids of the context's tokens are, and to `count` how many. They stay
 * until the next call that changes this session.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_tokens(struct plm_session *session, const uint32_t **tokens, size_t *count);

/**
 * Takes back the last `tokens` tokens. This cannot fail for as many as the batch has, if they were
 * fed since the session was created or a context was restored.
 *
 * Errors: `PLM_ERROR_REWIND_TOO_FAR` if there are not as many, or layers with a window have
 * overwritten what is needed; `PLM_ERROR_BUSY`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
 * `PLM_ERROR_HANDLE`.
 */
int32_t plm_rewind(struct plm_session *session, size_t tokens);

/**
 * Forgets all tokens, and work in progress.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_reset(struct plm_session *session);

/**
 * Writes to `bytes` how long a snapshot of `tokens` tokens is at most.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_snapshot_bytes(struct plm_session *session, uint32_t tokens, size_t *bytes);

/**
 * Writes a snapshot of the context by calls of `save`, piece by piece. The same tokens give the
 * same bytes on every machine.
 *
 * Errors: `PLM_ERROR_STORAGE` if `save` returned anything but 0; `PLM_ERROR_BUSY`,
 * `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_save(struct plm_session *session, plm_save_bytes save, void *context);

/**
 * Replaces the context by that of a snapshot, which `restore` gives piece by piece. There are no
 * logits until the next token is fed.
 *
 * Errors: `PLM_ERROR_NOT_A_SNAPSHOT`, `PLM_ERROR_SNAPSHOT_VERSION`, `PLM_ERROR_FOREIGN_SNAPSHOT`,
 * `PLM_ERROR_SNAPSHOT_KV` and `PLM_ERROR_CONTEXT_FULL` leave the session as it was. After
 * `PLM_ERROR_SNAPSHOT_DAMAGED` and `PLM_ERROR_STORAGE`, where `restore` returned anything but 0,
 * it may be empty. `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_restore(struct plm_session *session, plm_restore_bytes restore, void *context);

/**
 * Writes to `digest` the 64-bit FNV-1a digest of numbers by their bits: what a device and a host
 * compare instead of logits.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`.
 */
int32_t plm_digest(const float *numbers, size_t count, uint64_t *digest);

/**
 * Makes a sampler. `sampling` is copied; NULL is all zeros, the largest logit.
 *
 * Errors: `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`.
 */
int32_t plm_sampler_init(struct plm_sampler *sampler, const struct plm_sampling *sampling);

/**
 * Chooses a token from the logits of a session, which are overwritten, and writes it to `id`. The
 * token is entered in the window of penalties; it is not fed.
 *
 * Errors: `PLM_ERROR_NO_CANDIDATE`; `PLM_ERROR_TOKEN_OUT_OF_RANGE` for a bias; `PLM_ERROR_NULL`,
 * `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_sample(struct plm_sampler *sampler, struct plm_session *session, uint32_t *id);

/**
 * Begins a choice that `plm_sample_step` makes.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`.
 */
int32_t plm_choice_init(struct plm_choice *choice);

/**
 * `plm_sample` in calls whose work costs about `budget`, 0 to `UINT32_MAX`; a cost of 1 takes
 * about as long as in `plm_step`. `PLM_PENDING` if there is more to do; `PLM_OK` once the token is
 * in `id`. Between the calls of a choice the session must not be used.
 *
 * Errors: those of `plm_sample`.
 */
int32_t plm_sample_step(struct plm_sampler *sampler,
                        struct plm_session *session,
                        struct plm_choice *choice,
                        uint32_t budget,
                        uint32_t *id);

/**
 * Enters a token that was not sampled here, such as one of the prompt, in the window of penalties.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_accept(struct plm_sampler *sampler, uint32_t id);

/**
 * Opens the tokenizer of a model and checks all of it. `model` is not needed after that.
 *
 * Errors: `PLM_ERROR_NO_TOKENIZER`, 400 to 403, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
 * `PLM_ERROR_HANDLE`.
 */
int32_t plm_tokenizer_open(struct plm_tokenizer *tokenizer, const struct plm_model *model);

/**
 * Turns text into token ids. `text` has `bytes` bytes of UTF-8. `flags` is 0 or the sum of
 * `PLM_ADD_SPECIAL` and `PLM_PARSE_SPECIAL`. `scratch` has `scratch_words` words:
 * `PLM_SCRATCH_WORDS(bytes)` are enough, for a tokenizer with NFC (Qwen)
 * `PLM_NFC_SCRATCH_WORDS(bytes)`. `ids` has room for `ids_count` ids. Writes to `count` how many
 * ids the text has; after `PLM_ERROR_OUTPUT_TOO_SMALL` too, when `ids` holds the first of them.
 *
 * Errors: `PLM_ERROR_UTF8`, `PLM_ERROR_SCRATCH_TOO_SMALL`, `PLM_ERROR_OUTPUT_TOO_SMALL`,
 * `PLM_ERROR_SETTING` for unknown flags, `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`,
 * `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_encode(const struct plm_tokenizer *tokenizer,
                   const char *text,
                   size_t bytes,
                   uint32_t flags,
                   uint32_t *scratch,
                   size_t scratch_words,
                   uint32_t *ids,
                   size_t ids_count,
                   size_t *count);

/**
 * Writes to `ends` whether a token ends a text.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_ends_text(const struct plm_tokenizer *tokenizer, uint32_t id, bool *ends);

/**
 * Makes a decoder at the start of a text. `tokenizer` is copied. With `skip_special`, special
 * tokens are left out of the text.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_decoder_init(struct plm_decoder *decoder,
                         const struct plm_tokenizer *tokenizer,
                         bool skip_special);

/**
 * Gives the text that token `id` adds to `write`, in no, one or several calls. A character whose
 * bytes are not complete waits for the next token.
 *
 * Errors: `PLM_ERROR_TOKEN_OUT_OF_RANGE`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
 * `PLM_ERROR_HANDLE`.
 */
int32_t plm_decode(struct plm_decoder *decoder, uint32_t id, plm_write write, void *context);

/**
 * Gives what is left at the end of a text to `write`: a replacement character if it ends within a
 * character. The decoder is at a start again.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_decode_end(struct plm_decoder *decoder, plm_write write, void *context);

/**
 * Opens a grammar that `pocketlm grammar` has compiled, checks all of it, and goes to the start of
 * a text. `tokenizer` is copied. `grammar` has `bytes` bytes at any address, which do not change
 * while the constraint is used.
 *
 * Errors: 409 to 411, `PLM_ERROR_OTHER_VOCABULARY`, `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`,
 * `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_constraint_open(struct plm_constraint *constraint,
                            const struct plm_tokenizer *tokenizer,
                            const void *grammar,
                            size_t bytes);

/**
 * Goes to the start of a text.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_constraint_reset(struct plm_constraint *constraint);

/**
 * Writes to `allowed` whether token `id` may come next.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_constraint_allows(struct plm_constraint *constraint, uint32_t id, bool *allowed);

/**
 * Moves on over token `id`. Writes to `accepted` whether it was allowed; if not, nothing changes.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_constraint_accept(struct plm_constraint *constraint, uint32_t id, bool *accepted);

/**
 * Writes to `complete` whether the text may end here.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_constraint_is_complete(struct plm_constraint *constraint, bool *complete);

/**
 * Writes to `at_end` whether the text must end here: only tokens that end a text are allowed.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_constraint_is_at_end(struct plm_constraint *constraint, bool *at_end);

/**
 * Makes the logits of all tokens that may not come next minus infinity: those of `plm_logits`,
 * before `plm_sample`. `logits` has `count` floats.
 *
 * Errors: `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`,
 * `PLM_ERROR_HANDLE`.
 */
int32_t plm_constraint_mask(struct plm_constraint *constraint, float *logits, size_t count);

/**
 * Begins a text after the `count` tokens of a prompt, which follow what the session holds. The ids
 * are read until the first call that returns no error, and `options`, which may be NULL, only
 * here. `tokenizer` is copied; it is the one that the constraint was opened with.
 *
 * Errors: `PLM_ERROR_LENGTH` for too many or too long stop strings, `PLM_ERROR_UTF8` for their
 * text, `PLM_ERROR_NO_GRAMMAR`, `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
 * `PLM_ERROR_HANDLE`.
 */
int32_t plm_generate_start(struct plm_generation *generation,
                           struct plm_session *session,
                           struct plm_sampler *sampler,
                           const struct plm_tokenizer *tokenizer,
                           const uint32_t *ids,
                           size_t count,
                           const struct plm_generate_options *options);

/**
 * Adds the next token and gives the text that it completes to `write`, in no, one or several
 * calls. `PLM_OK` if the text goes on; `PLM_ENDED_TOKEN`, `PLM_ENDED_STOP`, `PLM_ENDED_LIMIT`,
 * `PLM_ENDED_CONTEXT` or `PLM_ENDED_COMPLETE` if it has ended, now and in every further call.
 *
 * Errors: those of `plm_feed` and `plm_sample`. Nothing is lost: the next call goes on from there.
 */
int32_t plm_generate_next(struct plm_generation *generation, plm_write write, void *context);

/**
 * `plm_generate_next` in calls whose work costs about `budget`, 0 to `UINT32_MAX`: see `plm_step`.
 * `PLM_PENDING` if the next token is not there yet.
 *
 * Errors: those of `plm_generate_next`.
 */
int32_t plm_generate_step(struct plm_generation *generation,
                          uint32_t budget,
                          plm_write write,
                          void *context);

/**
 * Ends a text that goes on, and gives text that was held back to `write`, because it could have
 * been the beginning of a stop string. The session holds the prompt and the text, but for the
 * token that `plm_generate_last` returns, and perhaps work in progress, which `plm_abort` drops.
 * Further calls return `PLM_ENDED_LIMIT`. Does nothing if the text has ended.
 *
 * Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_generate_stop(struct plm_generation *generation, plm_write write, void *context);

/**
 * Writes to `id` the token that was sampled last and that the session has not seen: a prompt that
 * goes on with the text begins with it.
 *
 * Errors: `PLM_ERROR_NO_TOKENS` if none was sampled, or if the session has computed the last one
 * already, because the text was stopped while the next was being chosen; `PLM_ERROR_NULL`,
 * `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
 */
int32_t plm_generate_last(struct plm_generation *generation, uint32_t *id);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* POCKETLM_H */
