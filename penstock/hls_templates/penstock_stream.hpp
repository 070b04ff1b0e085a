// Streams between tasks: hls::stream, tokens of several elements, and what runs the tasks.
// C++14; compiles with plain g++ and is synthesizable. No placeholders: this file is fixed.
//
// With Vitis HLS this is its own hls::stream and hls::vector. With plain g++ it is the strict
// stream below: a read while empty, and tokens left over, end the program. -DPK_VENDOR_STREAM
// takes <hls_stream.h> from the include path instead.
//
// -DPK_BOUNDED gives every stream the room that the environment variable PK_DEPTHS says
// ("K_s=2,V_s=16"; 1 for others) and runs the tasks side by side, each until it has to wait. If all
// wait, the program ends with code 4 and says who waits for what.
#ifndef PENSTOCK_STREAM_HPP
#define PENSTOCK_STREAM_HPP

#include <type_traits>

#if defined(__has_include)
#if __has_include(<hls_vector.h>) && !defined(PK_BOUNDED)
#define PK_VITIS
#endif
#endif

#include <cstddef>
#if defined(PK_VITIS)
#include <hls_stream.h>
#include <hls_vector.h>
#else
#if defined(PK_VENDOR_STREAM)
#include <hls_stream.h>
#else
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#endif
#if defined(PK_BOUNDED)
#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>
#endif
#endif

namespace pk {

#if defined(PK_VITIS)
template <class T, std::size_t N>
using word = hls::vector<T, N>;
#else
// One token of N elements, all 0 at first.
template <class T, std::size_t N>
struct word {
  T lane[N];
  word() : lane() {}
  T& operator[](std::size_t i) { return lane[i]; }
  const T& operator[](std::size_t i) const { return lane[i]; }
};
#endif

#if defined(PK_BOUNDED)
// Tasks that run until they have to wait, one at a time, always in the same order.
class tasks {
 public:
  tasks() { current() = this; }
  ~tasks() {
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t i = 0; i < all_.size(); ++i) {
        if (all_[i]->done) continue;
        running_ = i;
        all_[i]->moved = false;
        swapcontext(&home_, &all_[i]->context);
        moved = moved || all_[i]->moved || all_[i]->done;
      }
    }
    bool stuck = false;
    for (const auto& each : all_) {
      if (each->done) continue;
      std::fprintf(stderr, "deadlock: %s waits for %s\n", each->name, each->waits.c_str());
      stuck = true;
    }
    if (stuck) std::_Exit(4);
    current() = nullptr;
  }
  void add(const char* name, std::function<void()> run) {
    all_.emplace_back(new task{name, std::move(run), {}, std::vector<char>(1 << 18), {}, false, false});
    task& made = *all_.back();
    getcontext(&made.context);
    made.context.uc_stack.ss_sp = made.stack.data();
    made.context.uc_stack.ss_size = made.stack.size();
    made.context.uc_link = &home_;
    makecontext(&made.context, &tasks::start, 0);
  }
  void wait(const std::string& what) {
    all_[running_]->waits = what;
    swapcontext(&all_[running_]->context, &home_);
  }
  void moved() { all_[running_]->moved = true; }
  static tasks*& current() {
    static tasks* it = nullptr;
    return it;
  }

 private:
  struct task {
    const char* name;
    std::function<void()> run;
    ucontext_t context;
    std::vector<char> stack;
    std::string waits;
    bool done, moved;
  };
  static void start() {
    task& mine = *current()->all_[current()->running_];
    mine.run();
    mine.done = true;
  }
  std::vector<std::unique_ptr<task> > all_;
  std::size_t running_ = 0;
  ucontext_t home_ = {};
};

inline std::size_t depth_of(const std::string& name) {
  const char* given = std::getenv("PK_DEPTHS");
  const std::string all = "," + std::string(given ? given : "") + ",";
  const std::size_t at = all.find("," + name + "=");
  return at == std::string::npos ? 1 : std::size_t(std::atol(all.c_str() + at + name.size() + 2));
}
#endif

}  // namespace pk

// Tasks run side by side; #pragma HLS DATAFLOW in a simulation that knows no such thing.
#if defined(PK_BOUNDED)
#define PK_DATAFLOW pk::tasks pk_tasks;
#define PK_TASK(call) pk_tasks.add(#call, [&]() { call; });
#else
#define PK_DATAFLOW _Pragma("HLS DATAFLOW")
#define PK_TASK(call) call;
#endif

#if !defined(PK_VITIS) && !defined(PK_VENDOR_STREAM)
namespace hls {

template <class T>
class stream {
 public:
  explicit stream(const char* name) : name_(name) {
#if defined(PK_BOUNDED)
    room_ = pk::depth_of(name_);
#endif
  }
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;
  ~stream() {
    if (!tokens_.empty()) fail("still holds " + std::to_string(tokens_.size()) + " tokens at the end");
  }
  T read() {
#if defined(PK_BOUNDED)
    while (tokens_.empty()) pk::tasks::current()->wait("a token of " + name_);
    pk::tasks::current()->moved();
#else
    if (tokens_.empty()) fail("is read while empty");
#endif
    T value = tokens_.front();
    tokens_.pop_front();
    return value;
  }
  void write(const T& value) {
#if defined(PK_BOUNDED)
    while (tokens_.size() >= room_) pk::tasks::current()->wait("room in " + name_);
    pk::tasks::current()->moved();
#endif
    tokens_.push_back(value);
  }

 private:
  void fail(const std::string& how) const {
    std::fprintf(stderr, "stream %s %s\n", name_.c_str(), how.c_str());
    std::fflush(nullptr);
    std::_Exit(3);
  }
  std::string name_;
  std::deque<T> tokens_;
#if defined(PK_BOUNDED)
  std::size_t room_ = 1;
#endif
};

}  // namespace hls
#endif

namespace pk {
template <class T, std::size_t N>
struct token {
  typedef word<T, N> type;
};
template <class T>
struct token<T, 1> {
  typedef T type;
};
template <class T, std::size_t N>
using fifo = hls::stream<typename token<T, N>::type>;
}  // namespace pk

#endif
