defmodule ErlBridge.ErrorTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Error

  alias ErlBridge.Error

  test "an error map of the protocol, whole" do
    wire = %{
      error_type: :lm_error,
      message: "rate limited",
      python_type: "LMRateLimitError",
      traceback: "Traceback ...",
      context: %{code: 429},
      recovery_strategy: :retry,
      retry_after_ms: 1500
    }

    assert Error.from_wire(wire) == %Error{
             type: :lm_error,
             message: "rate limited",
             python_type: "LMRateLimitError",
             traceback: "Traceback ...",
             context: %{code: 429},
             strategy: :retry,
             retry_after_ms: 1500
           }
  end

  test "what is no error map becomes an error all the same" do
    assert %Error{type: :serialization_error, strategy: :fatal} =
             error = Error.from_wire(%{oops: 1})

    assert Exception.message(error) =~ "expected an error map, got: %{oops: 1}"
  end

  @messages [
    {Error.crashed(12, 3, []),
     "process_crashed: Python (OS process 12) ended with exit status 3"},
    {Error.crashed(12, 137, ["one", "two"]),
     "process_crashed: Python (OS process 12) was killed by signal 9; its last words: two"},
    {Error.crashed(nil, 127, []), "process_crashed: Python ended with exit status 127"},
    {Error.crashed(12, nil, []),
     "process_crashed: Python (OS process 12) closed its input and output"},
    {Error.no_hello(50, ["one"]),
     "timeout_error: Python did not say hello within 50 ms; its last words: one"},
    {Error.timed_out(50), "timeout_error: no answer within 50 ms"},
    {Error.not_running(MyApp.Bridge), "not_running: no bridge is running as MyApp.Bridge"},
    {Error.stopped(MyApp.Bridge),
     "not_running: MyApp.Bridge, or the worker of this request, was stopped before it answered"},
    {Error.duplicate_id(:nightly),
     "invalid_request: id: a request with the id :nightly is in flight already"},
    {Error.too_large(10, 5),
     "serialization_error: 10 bytes are more than the 5 that a frame may have (:max_frame)"},
    {%Error{type: :python_runtime_error, message: "no", python_type: "ValueError"},
     "python_runtime_error (ValueError): no"}
  ]

  for {error, text} <- @messages do
    test "#{text}" do
      assert Exception.message(unquote(Macro.escape(error))) == unquote(text)
    end
  end

  @not_sent [
    Error.not_running(MyApp.Bridge),
    Error.none_up(MyApp.Bridge, 10, nil),
    Error.pool_exhausted(10),
    Error.queue_full(10)
  ]

  for error <- @not_sent do
    test "Python never got what ended with: #{error.message}" do
      assert %Error{context: %{sent: false}, strategy: :retry} = unquote(Macro.escape(error))
    end
  end

  for error <- [Error.stopped(MyApp.Bridge), Error.crashed(1, 9, []), Error.timed_out(5)] do
    test "Python may have got what ended with: #{error.message}" do
      refute is_map_key(unquote(Macro.escape(error)).context, :sent)
    end
  end

  test "a crash says how to get over it and keeps the lines" do
    assert %Error{
             strategy: :restart_process,
             context: %{exit_status: 1, stderr: ["a", "b"], os_pid: 7}
           } = Error.crashed(7, 1, ["a", "b"])
  end
end
