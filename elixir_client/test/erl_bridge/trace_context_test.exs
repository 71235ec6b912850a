defmodule ErlBridge.TraceContextTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.TraceContext

  alias ErlBridge.{Live, TraceContext}

  @trace "0af7651916cd43dd8448eb211c80319c"
  @span "b7ad6b7169203331"
  @traceparent "00-#{@trace}-#{@span}-01"

  @wrong [
    "",
    nil,
    "00-#{@trace}-#{@span}",
    "00-#{@trace}-#{@span}-1",
    "00-#{@trace}-#{@span}-01-more",
    "00-#{String.upcase(@trace)}-#{@span}-01",
    "00-#{String.duplicate("0", 32)}-#{@span}-01",
    "00-#{@trace}-#{String.duplicate("0", 16)}-01",
    "ff-#{@trace}-#{@span}-01",
    "01-#{@trace}-#{@span}-01more",
    @traceparent <> "\n"
  ]

  for text <- @wrong do
    test "#{inspect(text)} is refused" do
      assert {:error, %ErlBridge.Error{type: :invalid_request}} =
               TraceContext.parse(unquote(text))
    end
  end

  test "a later version is read as far as this one goes, and sent as this one" do
    assert {:ok, context} = TraceContext.parse("01-#{@trace}-#{@span}-01-more")
    assert TraceContext.format(context) == @traceparent
  end

  test "of the flags only the one for sampled is passed on" do
    for {given, sent} <- [{"00", "00"}, {"01", "01"}, {"fe", "00"}, {"ff", "01"}] do
      {:ok, context} = TraceContext.parse("00-#{@trace}-#{@span}-#{given}")
      assert TraceContext.format(context) == "00-#{@trace}-#{@span}-#{sent}"
    end
  end

  @states [
    {"a=1", true},
    {"rojo=00f067aa0ba902b7, congo=t61rcWkgMzE", true},
    {"tenant@vendor=x,,b=2", true},
    {"", false},
    {"a", false},
    {"A=1", false},
    {"a=1,a=2", false},
    {"a=b=c", false},
    {Enum.map_join(1..33, ",", &"k#{&1}=v"), false},
    {"a=" <> String.duplicate("x", 256), true},
    {"a=" <> String.duplicate("x", 257), false},
    {Enum.map_join(1..3, ",", &"k#{&1}=#{String.duplicate("x", 200)}"), false}
  ]

  test "a tracestate that is wrong or too long is left out" do
    for {state, kept?} <- @states do
      assert {:ok, context} = TraceContext.parse(@traceparent, state)
      assert {state, context.tracestate == state} == {state, kept?}
    end
  end

  test "a child is another span of the same trace" do
    context = TraceContext.new()
    child = TraceContext.child(context)
    assert child.trace_id == context.trace_id and child.span_id != context.span_id
    assert {:ok, ^child} = TraceContext.parse(TraceContext.format(child))
  end

  test "a context is its process's own, and ends" do
    assert {:ok, context} = TraceContext.put(@traceparent, "a=1")
    assert TraceContext.current() == context
    assert Task.await(Task.async(&TraceContext.current/0)) == nil
    assert {:error, _error} = TraceContext.put("wrong")
    assert TraceContext.current() == context
    assert TraceContext.any?()
    assert :ok = TraceContext.clear()
    assert TraceContext.current() == nil
    refute TraceContext.any?()
  end

  test "metadata get a span of their own, of the request's trace or the process's" do
    {:ok, _context} = TraceContext.put(@traceparent, "a=1")
    assert %{label: 1, traceparent: sent, tracestate: "a=1"} = TraceContext.inject(%{label: 1})
    assert {:ok, %{trace_id: @trace, span_id: span}} = TraceContext.parse(sent)
    assert span != @span

    other = TraceContext.new()

    for trace <- [other, TraceContext.format(other)] do
      assert %{traceparent: sent} = TraceContext.inject(%{}, trace)
      assert {:ok, %{trace_id: trace_id}} = TraceContext.parse(sent)
      assert trace_id == other.trace_id
    end

    for given <- [%{traceparent: "x"}, %{"traceparent" => "x"}],
        do: assert(TraceContext.inject(given) == given)

    assert TraceContext.inject(%{}, false) == %{}

    assert_raise ArgumentError, ~r/traceparent: expected/, fn ->
      TraceContext.inject(%{}, "wrong")
    end
  end

  # In a node of its own: whether OpenTelemetry is there is found out once.
  test "is OpenTelemetry's in a function that Python calls, where the application has that" do
    script = ~s"""
    defmodule :otel_propagator_text_map do
      def inject([]), do: Process.get(:otel, [])
      def extract(headers), do: Process.put(:otel, headers)
    end

    ErlBridge.TraceContext.continue(%{traceparent: "#{@traceparent}", tracestate: "a=1"})
    %{traceparent: trace, tracestate: state} = ErlBridge.TraceContext.inject(%{})
    IO.puts(trace <> " " <> state)
    """

    assert {output, 0} =
             System.cmd("mix", ["run", "--no-start", "-e", script], env: [{"MIX_ENV", "test"}])

    assert output =~ @traceparent <> " a=1"
  end

  test "reaches a handler in Python" do
    metadata = TraceContext.inject(%{}, TraceContext.new())

    assert {:ok, %{"traceparent" => metadata.traceparent}} ==
             ErlBridge.call(Live.shared(), :trace, %{}, metadata: metadata)
  end
end
