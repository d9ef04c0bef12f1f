// The masks of llama.cpp's grammars, along walks that `walks TOKENIZER SCHEMAS WALKS FILE` wrote:
// llama_cpp MODEL.gguf FILE LIBRARIES. A line of the file is a schema, a tab, and the ids of a walk.
// A walk ends where llama.cpp refuses its next token. The README says how to build this.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

// Of llama.h and json-schema-to-grammar.h: the package has no headers. Both classes are larger here
// than there, which does no harm.
struct common_json {
    alignas(16) char room[256];
    common_json(common_json &&);
    ~common_json();
    static common_json parse(const std::string &);
};
std::string json_schema_to_grammar(const common_json & schema, bool force_gbnf);
extern "C" {
struct llama_model_params { char room[512]; };
struct llama_token_data { int32_t id; float logit; float p; };
struct llama_token_data_array { llama_token_data * data; size_t size; int64_t selected; bool sorted; };
struct llama_model;
struct llama_vocab;
struct llama_sampler;
void ggml_backend_load_all_from_path(const char *);
void llama_log_set(void (*)(int, const char *, void *), void *);
llama_model_params llama_model_default_params();
llama_model * llama_model_load_from_file(const char *, llama_model_params);
const llama_vocab * llama_model_get_vocab(const llama_model *);
int32_t llama_vocab_n_tokens(const llama_vocab *);
llama_sampler * llama_sampler_init_grammar(const llama_vocab *, const char *, const char *);
void llama_sampler_apply(llama_sampler *, llama_token_data_array *);
void llama_sampler_accept(llama_sampler *, int32_t);
void llama_sampler_free(llama_sampler *);
}

static double now() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

int main(int, char ** arguments) {
    llama_log_set([](int, const char *, void *) {}, nullptr);
    ggml_backend_load_all_from_path(arguments[3]);
    llama_model * model = llama_model_load_from_file(arguments[1], llama_model_default_params());
    if (!model) {
        return fprintf(stderr, "%s: no model\n", arguments[1]), 1;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    std::vector<llama_token_data> tokens(llama_vocab_n_tokens(vocab));
    std::vector<double> times;
    int walks = 0, refused = 0, cut = 0;
    std::ifstream file(arguments[2]);
    std::string schema, line;
    while (std::getline(file, schema, '\t') && std::getline(file, line)) {
        llama_sampler * grammar = nullptr;
        try {
            std::string gbnf = json_schema_to_grammar(common_json::parse(schema), true);
            grammar = llama_sampler_init_grammar(vocab, gbnf.c_str(), "root");
        } catch (const std::exception &) {
        }
        if (!grammar) {
            refused++;
            continue;
        }
        walks++;
        std::istringstream ids(line);
        int32_t id;
        while (ids >> id) {
            for (size_t at = 0; at < tokens.size(); at++) {
                tokens[at] = { int32_t(at), 0.0f, 0.0f };
            }
            llama_token_data_array array = { tokens.data(), tokens.size(), -1, false };
            double start = now();
            llama_sampler_apply(grammar, &array);
            times.push_back(now() - start);
            if (std::isinf(tokens[id].logit)) {
                cut++;
                break;
            }
            llama_sampler_accept(grammar, id);
        }
        llama_sampler_free(grammar);
    }
    std::sort(times.begin(), times.end());
    auto at = [&](int part) { return times[(times.size() - 1) * part / 1000]; };
    printf("llama.cpp: %d walks, %d cut short, %d schemas refused, %zu steps\n", walks, cut, refused,
           times.size());
    printf("mask, µs: median %.1f, 90 %% %.1f, 99 %% %.1f, worst %.1f\n", at(500), at(900), at(990),
           at(1000));
}
