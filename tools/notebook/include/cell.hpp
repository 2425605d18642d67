// What the notebook kernel tells the interpreter to say: that a cell reached its end, that there is something to display.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <iostream>

// Ordinary functions: the interpreter compiles them once, and an inline one again for each cell.
namespace espalier_cell {

int last_reached = 0;

void reached(int cell) {
  last_reached = cell;
}

void end(int cell) {
  std::cout.flush();
  std::printf("\x1e%s %d %s\x1f", "end", cell, last_reached == cell ? "done" : "failed");
  std::fflush(nullptr);
}

void display(const char* bundle) {
  std::cout.flush();
  std::printf("\x1e%s %s\x1f", "display", bundle);
}

}  // namespace espalier_cell
