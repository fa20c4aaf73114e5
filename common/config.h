// The configuration of a run: strict YAML with the authors' keys at the top level and ours beside
// them in small groups (design §9). Field names are the YAML keys; the defaults are the authors'
// pretraining values.
//
// Every problem (unknown key, wrong type, missing key or file, impossible combination) is one
// INVALID_ARGUMENT or NOT_FOUND that names file, line, key and what is allowed.
#ifndef ALBEF_COMMON_CONFIG_H_
#define ALBEF_COMMON_CONFIG_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace albef {

// In `init`: draw these weights instead of reading them from a file.
inline constexpr std::string_view kRandomInit = "random";

// A plain value. Its parts are nested types, so that the components' own option structs may have
// the names of the field.
struct RunConfig {
  // `bert_config`: inline, or the path of a JSON or YAML file that is looked up beside the YAML
  // file, in its parent folder and in the working directory.
  struct Bert {
    std::vector<std::string> architectures = {"BertForMaskedLM"};  // accepted, without effect
    std::string model_type = "bert";
    std::string hidden_act = "gelu";  // the exact (erf) GELU; nothing else exists
    int64_t hidden_size = 768;
    int64_t num_hidden_layers = 12;
    int64_t num_attention_heads = 12;
    int64_t intermediate_size = 3072;
    int64_t max_position_embeddings = 512;
    int64_t type_vocab_size = 2;
    std::optional<int64_t> vocab_size;  // unset (`auto`): the size of the vocabulary file
    int64_t pad_token_id = 0;           // accepted, without effect: ids come from the vocabulary
    double hidden_dropout_prob = 0.1;
    double attention_probs_dropout_prob = 0.1;
    double initializer_range = 0.02;
    double layer_norm_eps = 1e-12;
    int64_t fusion_layer = 6;  // first layer with cross-attention to the image
    int64_t encoder_width = 768;

    bool operator==(const Bert&) const = default;
  };

  struct Vision {
    int64_t patch_size = 16;
    int64_t depth = 12;
    int64_t heads = 12;
    int64_t mlp_ratio = 4;

    bool operator==(const Vision&) const = default;
  };

  struct Optimizer {
    std::string opt = "adamW";
    double lr = 1e-4;
    double weight_decay = 0.02;

    bool operator==(const Optimizer&) const = default;
  };

  // `schedular`, as the authors spell it. Spec §5 says what each value does.
  struct Schedule {
    std::string sched = "cosine";
    double lr = 1e-4;  // accepted, without effect: optimizer.lr is the base rate
    int64_t epochs = 30;
    double min_lr = 1e-5;
    double decay_rate = 1;  // accepted, without effect on a single cosine cycle
    double warmup_lr = 1e-5;
    int64_t warmup_epochs = 20;   // in units of step_size iterations of epoch 0
    int64_t cooldown_epochs = 0;  // accepted, without effect: training ends after `epochs`
    int64_t step_size = 100;      // iterations per stair of the warm-up

    bool operator==(const Schedule&) const = default;
  };

  enum class AugmentCompat {
    kCorrected,
    kOfficial,  // with the authors' AutoContrast and Sharpness defects
  };

  struct Data {
    std::string root = ".";  // relative train_file, eval.file, vocabulary and images start here
    // Where the indices of train_file and eval.file lie; unset: beside them, or in RUN_DIR/index
    // where that folder cannot be written.
    std::optional<std::string> index_dir;
    int64_t num_threads = 2;  // that decode and augment
    int64_t prefetch_batches = 2;
    double max_bad_fraction = 0.01;
    int64_t max_text_length = 25;  // tokens, [CLS] included
    int64_t max_words = 30;
    bool augment = true;  // false: evaluation resize instead of crop, flip and RandAugment
    AugmentCompat augment_compat = AugmentCompat::kCorrected;

    bool operator==(const Data&) const = default;
  };

  // Where the first weights come from: a path, or kRandomInit. Relative to the working directory.
  struct Init {
    std::optional<std::string> visual_encoder;
    std::optional<std::string> text_encoder;
    std::optional<std::string> checkpoint;  // the whole model, instead of the other two

    bool operator==(const Init&) const = default;
  };

  struct Tokenizer {
    std::optional<std::string> vocab;

    bool operator==(const Tokenizer&) const = default;
  };

  struct Checkpoint {
    std::optional<int64_t> every_steps;
    std::optional<int64_t> every_epochs = 1;
    int64_t keep = 2;                   // newest ones
    std::optional<int64_t> keep_every;  // also those whose step is a multiple of this

    bool operator==(const Checkpoint&) const = default;
  };

  struct Eval {
    std::optional<std::string> file;  // unset: no evaluation
    int64_t every_epochs = 1;
    int64_t batch_size = 64;
    int64_t rerank_top_k = 128;         // candidates that ITM ranks again, the authors' k_test
    std::optional<int64_t> max_images;  // unset: all

    bool operator==(const Eval&) const = default;
  };

  // Times in seconds.
  struct Elastic {
    int64_t min_workers = 1;
    double join_window_s = 30;        // the first start waits so long for all workers it expects
    double rejoin_wait_s = 5;         // a restarted trainer is waited for before others go on alone
    double hang_limit_s = 10;         // a member whose own work takes longer is stuck
    double startup_limit_s = 600;     // the same while a generation starts, for storage, evaluation
    double heartbeat_limit_s = 5;     // a silent worker is lost
    double reattach_window_s = 10;    // for workers to come back to a restarted coordinator
    double coordinator_wait_s = 600;  // workers wait so long for an external coordinator

    bool operator==(const Elastic&) const = default;
  };

  // In which order the virtual ranks' gradients are added.
  enum class Reduction {
    kTree,  // a fixed one: the same bits for any number of workers
    kNccl,  // NCCL's choice; GPU only, and faster
  };

  enum class Precision {
    kFp32,
    kTf32,  // GPU only
    kBf16,  // products of the encoders; everything else stays in fp32
  };

  enum class ActivationCheckpointing {
    kNone,
    kBlocks,  // kept are the inputs of the networks' blocks alone; the rest is computed again
  };

  // The authors' keys.
  std::vector<std::string> train_file;  // JSON files, .tar shards, patterns of either
  Bert bert_config;
  int64_t image_res = 256;
  int64_t vision_width = 768;
  int64_t embed_dim = 256;
  int64_t batch_size = 64;  // pairs of one virtual rank
  double temp = 0.07;
  double mlm_probability = 0.15;
  int64_t queue_size = 65536;
  double momentum = 0.995;
  double alpha = 0.4;
  Optimizer optimizer;
  Schedule schedular;

  // Ours.
  Vision vision;
  Data data;
  Init init;
  Tokenizer tokenizer;
  Checkpoint checkpoint;
  Eval eval;
  Elastic elastic;
  Precision precision = Precision::kFp32;
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
  std::optional<int64_t> virtual_ranks;       // unset: fixed at the first start
  std::optional<int64_t> threads_per_worker;  // unset: fixed at the first start
  std::optional<bool> deterministic;          // unset: true on the CPU, false on GPUs
  std::optional<Reduction> reduction;         // unset: kNccl on GPUs unless deterministic
  uint64_t seed = 42;
  std::optional<int64_t> max_steps;  // iterations; unset: until schedular.epochs are over
  int64_t log_every_steps = 10;
  bool teacher_dropout = true;  // as the authors' teacher, which stays in training mode (spec T1)
  int64_t max_skipped_steps_in_a_row = 20;

  bool operator==(const RunConfig&) const = default;
};

struct ConfigOptions {
  std::vector<std::string> overrides =
      {};                   // "optimizer.lr=3e-4": dotted key, value in YAML; in order
  bool check_files = true;  // train_file, eval.file, tokenizer.vocab and init.* must exist
  std::string device = {};  // "cpu", "cuda", or not known yet: what exists only there
};

absl::StatusOr<RunConfig> LoadRunConfig(const std::filesystem::path& path,
                                        const ConfigOptions& options = {});

// As LoadRunConfig, from memory. `path` names the text in messages and says where bert_config is
// looked up.
absl::StatusOr<RunConfig> ParseRunConfig(std::string_view yaml, const std::filesystem::path& path,
                                         const ConfigOptions& options = {});

// What a new run needs and the authors give on the command line or in code: `init` and
// `tokenizer.vocab`. The message names the files that the authors start from.
absl::Status CheckNewRun(const RunConfig& config);

// A file of the data set: relative paths start at data.root.
std::filesystem::path DataPath(const RunConfig& config, std::string_view file);

// The files that train_file names, its patterns expanded (common/file_pattern.h), in training
// order.
absl::StatusOr<std::vector<std::filesystem::path>> TrainFiles(const RunConfig& config);

// Every key with its value, bert_config inline; parses back to an equal config.
std::string ResolvedYaml(const RunConfig& config);

struct ConfigDifference {
  std::string key;
  std::string before;
  std::string after;
};

// The keys that differ and change the result of training. Not among them: what only decides how
// fast, how long or how observed a run is (loader threads, activation_checkpointing, checkpoint,
// eval, max_steps, logging, limits), what acts only at the first start (init), and where the data
// lies (data.root, tokenizer.vocab, and the folders of train_file: its entries count by file name).
// A key that is left to the first start (virtual_ranks, threads_per_worker, deterministic,
// reduction, vocab_size) differs only where both sides have a value.
std::vector<ConfigDifference> DifferencesThatChangeTheResult(const RunConfig& before,
                                                             const RunConfig& after);

// Takes over from `run` what `config` leaves to the first start: see above.
void FillFromRun(const RunConfig& run, RunConfig& config);

// XXH3-128, as hex digits, of exactly the keys that change the result.
std::string ConfigDigest(const RunConfig& config);

}  // namespace albef

#endif  // ALBEF_COMMON_CONFIG_H_
