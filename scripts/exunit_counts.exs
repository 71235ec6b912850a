defmodule ErlBridge.TestCounts do
  # An ExUnit formatter that prints nothing: it leaves "passed failed skipped" in the file that ERL_BRIDGE_TEST_COUNTS names,
  # and only when the suite has come to its end. Loaded by scripts/test before mix.
  use GenServer

  def init(_options), do: {:ok, %{passed: 0, failed: 0, skipped: 0}}

  def handle_cast({:test_finished, %{state: state}}, counts), do: {:noreply, count(state, counts)}

  def handle_cast({:suite_finished, _times}, counts) do
    File.write!(System.fetch_env!("ERL_BRIDGE_TEST_COUNTS"), "#{counts.passed} #{counts.failed} #{counts.skipped}")
    {:noreply, counts}
  end

  def handle_cast(_event, counts), do: {:noreply, counts}

  defp count(nil, counts), do: %{counts | passed: counts.passed + 1}
  defp count({:skipped, _}, counts), do: %{counts | skipped: counts.skipped + 1}
  # Left out by a filter of the test helper: not a test of this run.
  defp count({:excluded, _}, counts), do: counts
  # {:failed, _}, and {:invalid, _} when the module's setup_all failed.
  defp count(_, counts), do: %{counts | failed: counts.failed + 1}
end
