// What torch's C++ half asks of a device type, answered for CUDA cards that do not exist: which card is
// current, and how many there are. Everything else happens in fake_card.py.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using namespace c10;

thread_local DeviceIndex current = 0;

struct FakeCards final : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device getDevice() const override { return Device(DeviceType::CUDA, current); }
  void uncheckedSetDevice(Device to) const noexcept override {
    if (to.has_index()) current = to.index();
  }
  void setDevice(Device to) const override { uncheckedSetDevice(to); }
  Device exchangeDevice(Device to) const override {
    Device before = getDevice();
    setDevice(to);
    return before;
  }
  Stream getStream(Device of) const noexcept override {
    return Stream(Stream::DEFAULT, of.has_index() ? of : getDevice());
  }
  Stream exchangeStream(Stream to) const noexcept override { return getStream(to.device()); }
  DeviceIndex deviceCount() const noexcept override { return 2; }
};

C10_REGISTER_GUARD_IMPL(CUDA, FakeCards);

}  // namespace

extern "C" int current_card() { return current; }
extern "C" void use_card(int number) { current = static_cast<DeviceIndex>(number); }
