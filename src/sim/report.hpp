// SPDX-License-Identifier: Apache-2.0
// Turns findings into text. Internal to the checker.
#pragma once

#include <map>
#include <vector>

#include "sim/agents.hpp"
#include "sim/races.hpp"
#include "sim/symbols.hpp"

namespace nccl_ep::sim::check {

class ReportWriter {
 public:
  ReportWriter(const Names& names, DescribeAddress describe) : names_(names), describe_(std::move(describe)) {}

  bool has_new(const std::vector<Finding>& findings) const {
    return !reports_.empty() || findings.size() > num_written_;
  }
  const std::vector<Report>& write(const std::vector<Finding>& findings);

 private:
  using Sources = std::map<uintptr_t, SourceLine>;

  std::string text_of(const Finding& finding, const Sources& sources) const;
  std::string side(const Access& access, bool writes, const Sources& sources) const;

  const Names& names_;
  DescribeAddress describe_;
  size_t num_written_ = 0;
  std::vector<Report> reports_;
};

}  // namespace nccl_ep::sim::check
