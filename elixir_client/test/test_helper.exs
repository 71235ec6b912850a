Logger.configure(level: :warning)
ExUnit.start()
ErlBridge.Live.start_shared!()
