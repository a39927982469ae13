/* The sanitizer's options, in every program of the memory-checked build: the tests start each with an
 * environment of its own. What was found goes into files, since some errors of the agent's processes are
 * nobody's output. REPORTS is their directory, defined by tests/run. */
const char *__asan_default_options(void)
{
	return "abort_on_error=1:detect_leaks=0:log_path=" REPORTS "/report";
}
