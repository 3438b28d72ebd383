// libFuzzer over what a peer of the CRI socket sends. The first byte says in which pieces it comes and whether the
// opening of HTTP/2 goes before it, the second how calls are answered; the rest is what is sent.
//
// Invariants besides those of the sanitizers: a call is told once and with a path, a call is given up only after it
// was told and only once, and what is taken ends.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <algorithm>
#include <set>
#include <string>

#include "grpc/session.h"

namespace {

constexpr size_t kMaxMessageBytes = 4096;

void Require(bool holds) {
  if (!holds) abort();
}

void AnswerAs(unsigned choice, grpc::Session* session, const grpc::Event& event) {
  switch (choice % 5) {
    case 0: return session->Answer(event.stream, event.message);
    case 1: return session->Fail(event.stream, 5, event.path, "CODE");
    case 2: session->Write(event.stream, event.message); return session->End(event.stream);
    case 3: session->Write(event.stream, event.message); return session->Fail(event.stream, 13, event.message, "");
    default: return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t piece = (data[0] & 2) != 0 ? 1 + (data[0] >> 2) : size;
  unsigned choice = data[1];
  std::string sent;
  if ((data[0] & 1) != 0) {
    sent.assign("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    sent.append("\0\0\0\4\0\0\0\0\0", 9);
  }
  sent.append(reinterpret_cast<const char*>(data) + 2, size - 2);

  grpc::Session session(kMaxMessageBytes);
  std::set<int32_t> told;
  std::set<int32_t> given_up;
  for (size_t at = 0; at < sent.size(); at += piece) {
    const size_t length = std::min(piece, sent.size() - at);
    const bool goes_on = session.Receive(reinterpret_cast<const uint8_t*>(sent.data()) + at, length);
    for (const grpc::Event& event : session.TakeEvents()) {
      if (event.kind == grpc::Event::Kind::kCancel) {
        Require(told.contains(event.stream) && given_up.insert(event.stream).second);
        continue;
      }
      Require(told.insert(event.stream).second && event.message.size() <= kMaxMessageBytes);
      AnswerAs(choice++, &session, event);
    }
    size_t taken = 0;
    for (std::string some; !(some = session.Take()).empty();) taken += some.size();
    Require(taken < (size_t{64} << 20));
    if (!goes_on) break;
  }
  session.GoAway();
  while (!session.Take().empty()) {
  }
  (void)session.IsOver();
  return 0;
}
