// The command line `espalier`: parses, runs one command, turns errors into exit codes.
// SPDX-License-Identifier: Apache-2.0
#include "command.hpp"

#include <cstdio>
#include <exception>
#include <new>
#include <sstream>

namespace espalier::tools {

std::vector<LaterCommand> later_commands() {
  return {{"entries", "it comes with the adoption issue"}};
}

namespace {

int fail(int code, std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  std::fprintf(stderr, "espalier: %s\n", text.c_str());
  return code;
}

// The parser's own complaints in the form `--flag: what`.
std::string parser_text(const CLI::ParseError& error, const std::string& command) {
  const std::string help = "(see espalier " + (command.empty() ? "" : command + " ") + "--help)";
  std::string text = error.what();
  const std::string unknown_one = "The following argument was not expected: ";
  const std::string unknown = "The following arguments were not expected: ";
  for (const auto& start : {unknown_one, unknown}) {
    if (text.rfind(start, 0) != 0) continue;
    // An unknown flag's value is unexpected too, and may be named before it.
    std::istringstream words(text.substr(start.size()));
    std::string word;
    for (std::string next; words >> next;) {
      if (next.rfind("--", 0) == 0) return next + ": unknown flag " + help;
      if (word.empty()) word = next;
    }
    if (word.rfind("-", 0) == 0) return word + ": unknown flag " + help;
    return "'" + word + "': unexpected " + (command.empty() ? "command " : "argument ") + help;
  }
  // "NAME was given a disallowed flag override": a switch with a value, --NAME=value.
  const auto override = text.find(" was given a disallowed flag override");
  if (override != std::string::npos) return "--" + text.substr(0, override) + ": takes no value " + help;
  return text + " " + help;
}

// What has been printed must have arrived: a full disk shows when the buffer is written out.
int printed() {
  const bool arrived = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  return arrived ? 0 : fail(1, "standard output cannot be written (is the disk full?)");
}

int run_command(const Command& command, CLI::App& app, Interrupts& interrupts) {
  Flags flags(app);
  try {
    Run run(command.name, flags, interrupts);
    try {
      command.run(run);
    } catch (const FunctionError& error) {
      throw run.with_flag(error);
    }
    return printed();
  } catch (const Cancelled&) {
    return fail(130, "cancelled");
  } catch (const BackendError& error) {
    return fail(1, error.what());
  } catch (const Error& error) {  // ShapeError, ValueError, FormatError: the user's input
    return fail(2, error.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "not enough memory");
  } catch (const std::length_error&) {
    return fail(1, "not enough memory");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}

int run_main(int argc, char** argv) {
  CLI::App app("Structured attention masks with fast products: grids, trees, graph diffusion.", "espalier");
  app.set_version_flag("--version", std::string("espalier ") + ESPALIER_VERSION);
  app.footer("espalier COMMAND --help lists a command's flags with examples.");
  const std::vector<Command> commands = {multiply_command(), attend_command(), top_k_command(), row_command(),
                                         fit_command(),      info_command(),   demo_command()};
  std::vector<CLI::App*> apps;
  std::vector<Flags> declared;
  for (const Command& command : commands) {
    apps.push_back(app.add_subcommand(command.name, command.description));
    apps.back()->footer("Examples:\n" + command.examples);
    declared.emplace_back(*apps.back());
    command.add_flags(declared.back());
    add_common_flags(declared.back());
  }
  if (argc > 1) {
    for (const auto& later : later_commands()) {
      if (later.name == argv[1]) return fail(2, later.name + ": is not available yet (" + later.what + ")");
    }
  }
  if (argc > 1 && argv[1][0] != '-') {
    std::string known;
    bool found = false;
    for (const Command& command : commands) {
      known += (known.empty() ? "" : ", ") + command.name;
      found = found || command.name == argv[1];
    }
    if (!found) return fail(2, std::string(argv[1]) + ": no command (expected one of " + known + ")");
  }
  std::string chosen;
  try {
    app.require_subcommand(1);
    for (std::size_t i = 0; i < commands.size() && argc > 1; ++i) {
      if (commands[i].name == argv[1]) chosen = commands[i].name;
    }
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    for (CLI::App* sub : apps) {
      if (!sub->parsed()) continue;
      std::fputs(sub->help().c_str(), stdout);
      return printed();
    }
    std::fputs(app.help().c_str(), stdout);
    return printed();
  } catch (const CLI::CallForVersion& version) {
    std::printf("%s\n", version.what());
    return printed();
  } catch (const CLI::ParseError& error) {
    return fail(2, parser_text(error, chosen));
  }
  Interrupts interrupts;
  for (std::size_t i = 0; i < commands.size(); ++i) {
    if (!apps[i]->parsed()) continue;
    try {
      declared[i].refuse_later();
    } catch (const FlagError& error) {
      return fail(2, error.what());
    }
    return run_command(commands[i], *apps[i], interrupts);
  }
  return 2;
}

}  // namespace

}  // namespace espalier::tools

int main(int argc, char** argv) {
  return espalier::tools::run_main(argc, argv);
}
