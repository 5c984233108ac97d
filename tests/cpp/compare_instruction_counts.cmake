# Runs `program count SEED` under callgrind for several seeds and compares how many instructions Forest::predict_margins
# and transform() took, with all they call.
set(counts "")
foreach(seed IN ITEMS 2 3 4)
  execute_process(
    COMMAND "${valgrind}" --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no
            "--toggle-collect=*predict_margins*" "--toggle-collect=confidential_ml::transform*" "${program}" count ${seed}
    ERROR_VARIABLE log RESULT_VARIABLE failed)
  if(failed OR NOT log MATCHES "Collected : ([0-9]+)")
    message(FATAL_ERROR "callgrind failed: ${log}")
  endif()
  message("seed ${seed}: ${CMAKE_MATCH_1} instructions")
  if(CMAKE_MATCH_1 LESS 100000)
    message(FATAL_ERROR "hardly anything was counted")
  endif()
  list(APPEND counts "${CMAKE_MATCH_1}")
endforeach()
list(REMOVE_DUPLICATES counts)
list(LENGTH counts distinct)
if(NOT distinct EQUAL 1)
  message(FATAL_ERROR "the count depends on the rows")
endif()
