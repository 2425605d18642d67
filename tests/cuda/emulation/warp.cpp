// Warp operations: the lanes that a mask names wait for each other, then values are exchanged.
// SPDX-License-Identifier: Apache-2.0
//
// Source of the rules: CUDA C++ Programming Guide, "Warp Vote Functions", "Warp Shuffle Functions", "Synchronization
// Functions": the calling lane is in its mask, all lanes of the mask that have not returned execute the same operation with
// the same mask, and a lane's value may be read only if that lane takes part. Stricter here: one line of the source as well.
#include "emulation/block_state.hpp"

#include <algorithm>
#include <cstdio>

namespace espalier::emulation {

namespace {

const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::syncwarp:
      return "__syncwarp";
    case Operation::shuffle:
      return "__shfl_sync";
    case Operation::shuffle_up:
      return "__shfl_up_sync";
    case Operation::shuffle_down:
      return "__shfl_down_sync";
    case Operation::shuffle_xor:
      return "__shfl_xor_sync";
    case Operation::ballot:
      return "__ballot_sync";
    case Operation::any:
      return "__any_sync";
    case Operation::all:
      return "__all_sync";
  }
  return "?";
}

}  // namespace

std::string hexadecimal(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

void BlockState::complete(const Meeting& meeting, unsigned warp) {
  Thread* const lanes = threads.data() + warp * kWarp;
  std::uint64_t ballot = 0;
  for (unsigned l = 0; l < kWarp; ++l) {
    if ((meeting.arrived >> l & 1) != 0 && lanes[l].value != 0) ballot |= std::uint64_t{1} << l;
  }
  for (unsigned l = 0; l < kWarp; ++l) {
    if ((meeting.arrived >> l & 1) == 0) continue;
    Thread& lane = lanes[l];
    if (lane.source < 0) {
      lane.result = ballot;
    } else if ((meeting.arrived >> lane.source & 1) != 0) {
      lane.result = lanes[lane.source].value;
    } else {
      fail_for(lane.index,
               std::string(name_of(meeting.operation)) + " reads lane " + std::to_string(lane.source) +
                   ", which takes no part (mask " + hexadecimal(meeting.mask) + ", lanes that came " +
                   hexadecimal(meeting.arrived) + ")",
               lane.place);
    }
    lane.waiting = Waiting::nothing;
  }
}

void BlockState::release_warp(unsigned warp) {
  auto& meetings = warps[warp].meetings;
  for (std::size_t i = 0; i < meetings.size();) {
    if (meetings[i].arrived == (meetings[i].mask & warps[warp].alive)) {
      const Meeting done = meetings[i];
      meetings.erase(meetings.begin() + static_cast<std::ptrdiff_t>(i));
      complete(done, warp);
    } else {
      ++i;
    }
  }
}

std::uint64_t meet_warp(Operation operation, unsigned mask, std::uint64_t value, int source, Place place) {
  BlockState& block = block_state();
  const unsigned number = block.current / kWarp, lane = block.current % kWarp;
  if ((mask >> lane & 1) == 0) {
    fail_here(std::string(name_of(operation)) + ": lane " + std::to_string(lane) + " is outside its mask " + hexadecimal(mask),
              place);
  }
  auto& meetings = block.warps[number].meetings;
  auto found = std::find_if(meetings.begin(), meetings.end(), [&](const Meeting& m) { return m.mask == mask; });
  if (found == meetings.end()) {
    meetings.push_back({mask, 0, operation, place});
    found = meetings.end() - 1;
  } else if (found->operation != operation || !same_place(found->place, place)) {
    fail_here(std::string("lanes of one mask meet in different operations: ") + name_of(operation) + " here, " +
                  name_of(found->operation) + " at " + espalier::emulation::name_of(found->place),
              place);
  }
  found->arrived |= 1u << lane;
  Thread& me = block.threads[block.current];
  me.waiting = Waiting::warp;
  me.place = place;
  me.mask = mask;
  me.value = value;
  me.source = source;
  ++counts().crossings;
  block.release_warp(number);
  me.fiber->leave(false);
  return me.result;
}

}  // namespace espalier::emulation
