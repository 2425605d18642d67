// espalier demo: the main job on the shipped data, as a table and pictures.
// SPDX-License-Identifier: Apache-2.0
#include "command.hpp"
#include "demo.hpp"

#include <espalier/core/error.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace espalier::tools {

namespace {

void add_flags(Flags& flags) {
  flags.value("data", "DIR", "folder of the shipped data (default: beside the installed program, or examples/data)");
  flags.value("output", "DIR", "folder for the pictures (default: no pictures)");
}

// The data lies in share/espalier/data beside an installed bin/espalier, or in the source tree.
std::string data_folder(Run& run) {
  std::vector<std::string> tried;
  if (const auto given = run.flags.text("data")) {
    tried.push_back(*given);
  } else {
    std::error_code none;
    const auto program = std::filesystem::read_symlink("/proc/self/exe", none);
    tried.push_back((program.parent_path().parent_path() / "share/espalier/data").string());
    tried.push_back("examples/data");
  }
  std::string places;
  for (const auto& folder : tried) {
    if (std::filesystem::exists(folder + "/astronaut.ppm.gz")) return folder;
    places += (places.empty() ? "" : ", ") + folder;
  }
  throw FlagError("data", "the shipped data is not in " + places + " (expected the folder examples/data of the sources)");
}

std::string bytes_text(double bytes) {
  char text[32];
  const char* units[] = {"B", "KB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 4) bytes /= 1000, ++unit;
  std::snprintf(text, sizeof(text), "%.3g %s", bytes, units[unit]);
  return text;
}

void print_table(const std::vector<DemoRow>& rows) {
  std::printf("\n%-55s %8s %-10s %9s %10s %8s %9s %9s\n", "mask", "L", "engine", "seconds", "dense", "ratio", "matrix",
              "error");
  for (const DemoRow& r : rows) {
    char dense[24];
    std::snprintf(dense, sizeof(dense), "%s%.3g", r.extrapolated ? "~" : "", r.dense_seconds);
    std::printf("%-55s %8td %-10s %9.3g %10s %7.3gx %9s %9.1e\n", r.name.c_str(), r.length, r.engine.c_str(), r.seconds, dense,
                r.dense_seconds / r.seconds, bytes_text(r.matrix_bytes).c_str(), r.error);
  }
  for (const DemoRow& r : rows) {
    if (!r.remark.empty()) std::printf("  %s: %s\n", r.name.c_str(), r.remark.c_str());
  }
  std::printf(
      "dense: the same product by our own tiles on the same threads; ~ extrapolated from a sample of rows. matrix: bytes of "
      "the\n"
      "L x L matrix that is never formed. error: against double, see docs/math.md section 6.\n");
}

void run_demo(Run& run) {
  const std::string folder = data_folder(run);
  const auto output = run.flags.text("output");
  const std::vector<std::string> names = {"patch_weights.png", "time_against_length.png", "heat_t100.png", "heat_t2000.png",
                                          "learned_table.png"};
  if (output) {
    std::error_code none;
    std::filesystem::create_directories(*output, none);
    for (const auto& name : names) run.outputs.reserve("output", *output + "/" + name);
  }
  run.flags.check_all_used();
  const auto start = std::chrono::steady_clock::now();
  DemoSetting setting{folder, run.context(), [&](const std::string& what) {
                        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
                        std::printf("[%5.1f s] %s\n", passed.count(), what.c_str());
                        std::fflush(stdout);
                      }};
  std::vector<DemoRow> rows;
  std::vector<DemoPicture> pictures;
  std::vector<std::string> accuracy;
  run.timed("apply", [&] {
    rows.clear(), pictures.clear(), accuracy.clear();
    demo_grids(setting, rows, pictures);
    demo_sequence(setting, rows, pictures);
    demo_graphs(setting, rows, pictures);
    demo_search(setting, rows, accuracy);
    demo_learning(setting, pictures);
  });
  print_table(rows);
  std::printf("\nk-MIP attention on trained heads: relative error of the output against full softmax attention\n");
  for (const auto& line : accuracy) std::printf("%s\n", line.c_str());
  for (const DemoPicture& p : pictures) {
    if (output) run.outputs.fill(*output + "/" + p.name, [bytes = encode_png(p.image)](WholeFile& file) { file.write(bytes); });
  }
  run.report["rows"] = nlohmann::json::array();
  for (const DemoRow& r : rows) {
    run.report["rows"].push_back({{"mask", r.name},
                                  {"size", r.length},
                                  {"engine", r.engine},
                                  {"seconds", r.seconds},
                                  {"dense_seconds", r.dense_seconds},
                                  {"extrapolated", r.extrapolated},
                                  {"matrix_bytes", r.matrix_bytes},
                                  {"true_error", r.error}});
  }
  run.finish("demo: " + std::to_string(rows.size()) + " cases" + (output ? ", pictures in " + *output : std::string()));
}

}  // namespace

Command demo_command() {
  return {"demo", "the main job on the shipped data: a table of times and errors, and pictures",
          "  espalier demo\n  espalier demo --data examples/data --output pictures\n", add_flags, run_demo};
}

}  // namespace espalier::tools
