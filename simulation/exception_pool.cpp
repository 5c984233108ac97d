// Only for images that bring their own copy of libstdc++ (-static-libstdc++): in any other, the pool is the
// whole process's.

// libstdc++ declares it in no header; it is there for tools that look for leaks.
// NOLINTNEXTLINE(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)
namespace __gnu_cxx {
// NOLINTNEXTLINE(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)
__attribute__((weak)) void __freeres() noexcept;
}  // namespace __gnu_cxx

namespace {

// libstdc++ reserves 72 KiB for exceptions thrown when memory is out and never gives them back: of a program
// that is nothing, of an image that comes and goes it adds up. 101 is the lowest priority there is, so this
// is the last destructor of the image.
__attribute__((destructor(101))) void free_exception_pool() {
  if (__gnu_cxx::__freeres) __gnu_cxx::__freeres();
}

}  // namespace
