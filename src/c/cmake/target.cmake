# The target pocketlm::pocketlm of POCKETLM_ARCHIVE, POCKETLM_INCLUDE and POCKETLM_TARGET.
add_library(pocketlm::pocketlm STATIC IMPORTED GLOBAL)
set_target_properties(pocketlm::pocketlm PROPERTIES IMPORTED_LOCATION "${POCKETLM_ARCHIVE}")
target_include_directories(pocketlm::pocketlm INTERFACE "${POCKETLM_INCLUDE}")
if(NOT POCKETLM_TARGET)
  find_package(Threads REQUIRED)
  target_link_libraries(pocketlm::pocketlm INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
else()
  # What is not called takes no flash. Only Rust's objects say that they need no executable stack,
  # so binutils 2.39 and later would warn of the others.
  target_link_options(pocketlm::pocketlm INTERFACE -Wl,--gc-sections -Wl,-z,noexecstack)
endif()
