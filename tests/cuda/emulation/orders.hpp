// Runs a piece of a test once in each order of the threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emulation/block.hpp"

#include <doctest/doctest.h>

#include <string>

namespace espalier::emulation {

inline const char* name_of(Order order) {
  return order == Order::forward ? "forward" : order == Order::reverse ? "reverse" : "random";
}

// f runs three times: a kernel's result may not depend on who comes first.
template <class F>
void in_every_order(const F& f) {
  struct Restored {
    Settings before = settings();
    ~Restored() { settings() = before; }
  } restored;
  for (const Order order : {Order::forward, Order::reverse, Order::random}) {
    const std::string threads = name_of(order);
    CAPTURE(threads);
    settings().order = order;
    f();
  }
}

}  // namespace espalier::emulation
