// SPDX-License-Identifier: Apache-2.0
#include "sim/report.hpp"

namespace nccl_ep::sim::check {

namespace {

constexpr const char* kAllowed = "race-ok:";  // in a comment on the line of either access, before the reason

const char* headline(Reason reason) {
  switch (reason) {
    case Reason::unordered: return "race: nothing orders these two accesses";
    case Reason::scope: return "race: the scope of a synchronising access leaves the other thread out";
    case Reason::proxy_fence:
      return "missing fence_proxy_async: a bulk copy may not see this write, although it comes later";
    case Reason::mbar_fence:
      return "missing fence_mbar_init: a bulk copy may not see the initialisation of its mbarrier";
  }
  return "";
}

std::string kind_of(const Access& access, bool writes) {
  const std::string verb = writes ? "write" : "read";
  switch (access.as_kind()) {
    case Kind::plain: return verb;
    case Kind::unit: return "unit " + verb;
    case Kind::atomic_block: return "synchronising " + verb + " (block scope)";
    case Kind::atomic_gpu: return "synchronising " + verb + " (gpu scope)";
    case Kind::atomic_system: return "synchronising " + verb + " (system scope)";
  }
  return verb;
}

}  // namespace

const std::vector<Report>& ReportWriter::write(const std::vector<Finding>& findings) {
  std::vector<uintptr_t> pcs;
  for (size_t i = num_written_; i < findings.size(); ++i) {
    pcs.push_back(findings[i].earlier.pc);
    pcs.push_back(findings[i].later.pc);
  }
  const Sources sources = find_source_lines(pcs);
  const auto is_allowed = [&](const Access& access) {
    const auto source = sources.find(access.pc);
    return source != sources.end() && source->second.read().find(kAllowed) != std::string::npos;
  };
  for (; num_written_ < findings.size(); ++num_written_) {
    const Finding& finding = findings[num_written_];
    if (is_allowed(finding.earlier) || is_allowed(finding.later)) continue;
    reports_.push_back({text_of(finding, sources)});
  }
  return reports_;
}

std::string ReportWriter::text_of(const Finding& finding, const Sources& sources) const {
  std::string text = std::string(headline(finding.reason)) + "\n  at " + describe_(finding.address) + "\n  ";
  if (finding.reason == Reason::mbar_fence) return text + side(finding.later, true, sources);
  text += side(finding.later, finding.later_writes, sources) + "\n  after ";
  text += side(finding.earlier, finding.earlier_writes, sources);
  if (finding.num_repeats != 0) {
    text += "\n  and " + std::to_string(finding.num_repeats) + " more between the same two lines";
  }
  return text;
}

std::string ReportWriter::side(const Access& access, bool writes, const Sources& sources) const {
  const std::string text = kind_of(access, writes) + " by " + names_.of(access.slot, access.epoch);
  const auto source = sources.find(access.pc);
  return source != sources.end() ? text + ", " + source->second.text() : text;
}

}  // namespace nccl_ep::sim::check
